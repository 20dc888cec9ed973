"""Where the shipped sample data comes from: one module per folder of examples/data."""
