"""Reading a state whose moments are kept in 8 bits."""

import jax

from optadamw.base.tree import flatten, match_leaves
from optadamw.base.types import PyTree
from optadamw.store.block_code import Blocks, decoded
from optadamw.store.state import SCALES, State, refuse_swapped

UNSIGNED = ("nu", "nu_max")
"""The buffers that hold no negative number, whose codes have no sign."""


def dequantize(state: PyTree) -> PyTree:
    """The same state with arrays of float32 for blocks of 8 bits.

    To look at moments, or to convert them. Buffers in 16 bits are arrays already. A
    transformation that keeps blocks does not take the result; `checkpoint.restore` puts
    the numbers of one form into the other.

    Args:
      state: the state of a transformation, of an `optax.chain`, of a wrapper.

    Returns:
      A tree like `state`; each number is within an eighth (rounded to nearest: a
      sixteenth) of what was to be kept, see `blockwise`.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> kept = optadamw.blockwise(min_size=0)
      >>> tx = optadamw.adamw(1e-3, mu_dtype=kept, nu_dtype=kept)
      >>> params = {"w": jnp.ones((2, 8))}
      >>> params, state = tx.step({"w": jnp.ones((2, 8))}, tx.init(params), params)
      >>> optadamw.dequantize(state).mu["w"].shape
      (2, 8)
    """
    refuse_swapped(state)
    return jax.tree.map(
        lambda node: _plain(node) if isinstance(node, State) else node,
        state,
        is_leaf=lambda node: isinstance(node, State),
    )


def _plain(state: State) -> State:
    for name, field in SCALES.items():
        if getattr(state, field) is not None:
            leaves = flatten(getattr(state, name))
            scales = match_leaves(getattr(state, field), leaves, f"state.{field}")
            numbers = [
                codes
                if scale is None
                else decoded(Blocks(codes, scale), signed=name not in UNSIGNED)
                for codes, scale in zip(leaves.arrays, scales, strict=True)
            ]
            tree = leaves.treedef.unflatten(numbers)
            state = state._replace(**{name: tree, field: None})
    return state
