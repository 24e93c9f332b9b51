"""`optadamw convert`: a saved state of one library as that of another."""
