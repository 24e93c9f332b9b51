"""What the walk over the trees refuses."""
