"""bayesflat: large-scale gradients of a wide-field camera's flats, as one PyMC model, with uncertainties."""
