"""`optadamw.adamw` in loops that other people wrote for `optax.adamw`."""
