"""Applies the rules to every parameter of the tree, in one pass and in place."""
