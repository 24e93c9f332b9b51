"""One rule, and its public atom, in each file."""
