"""A SageMaker-compatible endpoint on this machine."""
