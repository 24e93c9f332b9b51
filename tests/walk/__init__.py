"""Tests of inputs that the walk over the trees refuses."""
