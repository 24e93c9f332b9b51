"""Errors, types, numbers, trees, masks and random bits, which all folders use."""
