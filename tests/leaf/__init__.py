"""The kernels that run all that happens to one leaf."""
