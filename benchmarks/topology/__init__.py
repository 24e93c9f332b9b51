"""Steps compiled by XLA for TPUs and GPUs that are not here: bytes, not times."""
