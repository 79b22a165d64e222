"""Simulated flats with a known truth."""
