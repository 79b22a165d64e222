"""What is inferred from a model and its data."""
