"""Walked once, stepped in place: the only folder that maps rules over the tree."""
