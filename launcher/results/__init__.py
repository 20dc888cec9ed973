"""What a job leaves: adapters, metrics."""
