"""`optadamw convert`: convert a saved state of one library to that of another."""
