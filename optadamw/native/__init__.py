"""One pass on the CPU: leaf functions compiled to C loops, each byte moved once."""
