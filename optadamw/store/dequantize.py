"""Read a state whose moments are stored in 8 bits."""

import jax

from optadamw.base.tree import flatten, match_leaves
from optadamw.base.types import PyTree
from optadamw.store.block_code import Blocks, decoded
from optadamw.store.state import (
    State,
    buffers_in,
    is_scales,
    place_of,
    refuse_swapped,
    scales_of,
    state_replacing,
)

UNSIGNED = ("nu", "nu_max")
"""The buffers without negative numbers, whose codes have no sign.

The codes of all other buffers have a sign, also in `State.custom`: the state does not
record it, so it must follow from the name.
"""


def dequantize(state: PyTree) -> PyTree:
    """Return the state with float32 arrays in place of blocks of 8 bits.

    Use it to read moments, or to convert them. Buffers in 16 bits are arrays already
    and do not change. A transformation with moments in 8 bits refuses the result;
    `checkpoint.restore` converts a state from one format to the other.

    Args:
      state: the state of a transformation, of an `optax.chain` or of a wrapper.

    Returns:
      A state like `state`, without scales. Each number is within an eighth of the
      number that was encoded (within a sixteenth if rounded to nearest), see
      `blockwise`.

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
    held = buffers_in(state)
    plain: dict[str, PyTree] = {}
    for name, buffer in held.items():
        beside = scales_of(name)
        if is_scales(name) or beside not in held:
            continue
        leaves = flatten(buffer)
        scales = match_leaves(held[beside], leaves, place_of(beside))
        numbers = [
            codes
            if scale is None
            else decoded(Blocks(codes, scale), signed=name not in UNSIGNED)
            for codes, scale in zip(leaves.arrays, scales, strict=True)
        ]
        plain |= {name: leaves.treedef.unflatten(numbers), beside: None}
    return state_replacing(state, plain)
