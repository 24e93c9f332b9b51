"""What XLA makes of a step on TPUs and GPUs that are not here: bytes, not times."""
