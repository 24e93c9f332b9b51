"""The transformations that a user chains, one atom or wrapper in each file."""
