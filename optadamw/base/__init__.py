"""Base: errors, types, numbers, trees, masks and random bits, used by all folders."""
