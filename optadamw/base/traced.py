"""The errors of functions that need the value of a number which is only traced."""

import jax

NEEDS_VALUE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
"""The errors of JAX for `if`, NumPy's functions, and an index into a list."""


def untraceable(name: str, schedule: str) -> TypeError:
    """Build the TypeError for a schedule that JAX cannot trace."""
    return TypeError(
        f"`{name}`: {schedule} cannot be traced, as in a step under jax.jit: it asks "
        "for the value of the step. Use jnp.where in place of `if`, and arrays of JAX "
        "in place of lists and of NumPy's."
    )
