"""The order in which XLA forms values, on the CPU alone.

There a fusion has one result, and a value that several results need is formed anew for
each of them. On other backends one fusion has all results, and a barrier would cut it
in two.
"""

from typing import Any

from jax import lax


def materialized(values: Any) -> Any:
    """Return `values` unchanged, which XLA writes to memory before it goes on."""
    return lax.platform_dependent(
        values, cpu=lax.optimization_barrier, default=lambda values: values
    )


def finish_first(made: Any, operands: Any) -> tuple[Any, Any]:
    """Return both unchanged, so that XLA finishes `made` before it reads `operands`.

    A moment that is rounded when it is kept is computed twice: unrounded for the
    parameter, and again from the old buffer for the new one. XLA's CPU backend makes a
    pass of each, and copies the old buffer if nothing says which comes first (2.1 bytes
    of temporaries for each number in 8 bits; so ordered, none).
    """
    return materialized((made, operands))
