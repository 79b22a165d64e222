"""What flats are: cameras, flats, defects, and the binned focal plane."""
