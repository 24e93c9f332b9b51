"""Leaf functions as Pallas kernels: every byte is read and written once."""
