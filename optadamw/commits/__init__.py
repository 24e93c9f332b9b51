"""One way of writing 16-bit parameters in each file."""
