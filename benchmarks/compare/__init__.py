"""Compare two checkouts of optadamw over the tests' table of transformations."""
