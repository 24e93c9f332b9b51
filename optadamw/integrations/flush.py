"""Apply a window that is not full, in the training loop of any library."""

import optax

from optadamw.base.errors import mistyped
from optadamw.base.types import PyTree
from optadamw.transforms.transformation import Transformation


def flush(
    tx: optax.GradientTransformation, state: PyTree, params: PyTree
) -> tuple[PyTree, PyTree]:
    """Call `tx.flush`; raise a TypeError for a transformation without `flush`."""
    if not isinstance(tx, Transformation):
        raise mistyped(
            "tx",
            "a transformation of optadamw to be flushed",
            tx,
            "Other transformations cannot apply a partial window: accumulate with "
            "optadamw.multi_steps instead of optax.MultiSteps.",
        )
    return tx.flush(state, params)
