"""Barriers that order XLA's computations on the CPU.

A fusion of XLA's CPU backend has one result, so a value that several results need is
computed anew for each of them. On other backends one fusion has all results, and a
barrier would cut it in two.
"""

from typing import Any

from jax import lax


def materialized(values: Any) -> Any:
    """Return `values` unchanged; on the CPU XLA first writes them to memory."""
    return lax.platform_dependent(
        values, cpu=lax.optimization_barrier, default=lambda values: values
    )


def finish_first(made: Any, operands: Any) -> tuple[Any, Any]:
    """Return both unchanged, so that XLA finishes `made` before it reads `operands`.

    A moment that is rounded in the state is computed twice: unrounded for the
    parameter, and again from the old buffer for the new buffer. XLA's CPU backend makes
    a pass of each, and copies the old buffer unless the order of the two is fixed (2.1
    bytes of temporaries for each number in 8 bits; with the barrier, none).
    """
    return materialized((made, operands))
