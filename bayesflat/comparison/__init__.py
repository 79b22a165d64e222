"""Sky against dome."""
