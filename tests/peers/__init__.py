"""The real optimizers as data: rows, recorded trajectories, float64 transcriptions."""
