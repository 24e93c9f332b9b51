"""`optadamw convert`: convert a saved state from one library to another."""
