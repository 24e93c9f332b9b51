"""What differs between two checkouts of optadamw, over the tests' table."""
