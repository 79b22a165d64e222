"""The same on Rubin's data repositories."""
