"""Kept: how a buffer of the optimizer is stored between two steps."""
