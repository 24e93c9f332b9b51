"""Applying a partial window, for the loops of every library."""

import optax

from optadamw.base.errors import mistyped
from optadamw.base.types import PyTree
from optadamw.transforms.transformation import Transformation


def flush(
    tx: optax.GradientTransformation, state: PyTree, params: PyTree
) -> tuple[PyTree, PyTree]:
    """`tx.flush`, refused by name for a transformation that has none."""
    if not isinstance(tx, Transformation):
        raise mistyped(
            "tx",
            "a transformation of optadamw to be flushed",
            tx,
            "Only those apply a partial window: accumulate with "
            "optadamw.multi_steps instead of optax.MultiSteps.",
        )
    return tx.flush(state, params)
