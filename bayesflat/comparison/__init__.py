"""Comparison of a sky and a dome flat."""
