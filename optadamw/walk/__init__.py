"""Walked once, stepped in place: the only room that maps rules over the tree."""
