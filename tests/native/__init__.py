"""One pass on the CPU: the generator, the compiler's cache, and the calls."""
