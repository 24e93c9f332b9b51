"""Benchmarks of optadamw against Optax, Keras and PyTorch: `python -m benchmarks`."""
