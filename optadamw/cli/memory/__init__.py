"""`optadamw memory`: print the memory of a training before it starts."""
