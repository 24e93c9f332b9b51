"""Wrappers: what stands around a chain and decides when it takes a step, one a file."""
