"""Tests of the transformations that a user chains: arguments and errors."""
