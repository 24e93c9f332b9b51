"""Kept: how a buffer of the optimizer lives between two steps."""
