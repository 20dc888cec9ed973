"""An account as jobs need it: what is deployed there, and what is missing."""
