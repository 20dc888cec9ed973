"""Rows and channels: what is checked before anything is uploaded."""
