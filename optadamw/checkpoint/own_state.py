"""Refuse to save a state that the transformation beside it did not make."""

import jax
import optax

from optadamw.base.types import PyTree
from optadamw.checkpoint.inside import transformations_in
from optadamw.store.state import State
from optadamw.transforms.transformation import Transformation
from optadamw.walk.inputs import absent_of, check_state


def refuse_another(
    tx: optax.GradientTransformation, state: PyTree, params: PyTree
) -> None:
    """Refuse a State whose buffers are not those of `tx`: its record would be wrong.

    Raises:
      ValueError: such a State, or several of them for one transformation.
    """
    nodes = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, State))
    states = [node for node in nodes if isinstance(node, State)]
    if isinstance(tx, Transformation) and len(states) > 1:
        raise ValueError(
            f"`state` holds {len(states)} States, and `tx` makes one, so that no "
            "restore would take them. Save each with its own transformation: give the "
            "entries of to_portable a prefix of each, or write a file for each."
        )
    found = transformations_in(tx)
    if len(found) != len(states):
        return
    for part, own in zip(found, states, strict=True):
        composition = part.recipe.composition
        check_state(composition, own, absent_of(composition, own, params))
