"""The buffers of one slot: a column with an entry for each leaf, or trees in State."""

from collections.abc import Sequence
from typing import Any

from optadamw.base.tree import Leaves, match_leaves
from optadamw.store.block_code import Blocks
from optadamw.store.slot import Slot
from optadamw.store.state import State, buffer_in, place_of, scales_of


def column_of(slot: Slot, state: State, leaves: Leaves) -> list[Any]:
    """Return the buffers of one slot, one for each leaf, from the trees of a State.

    Raises:
      ValueError: a tree has another structure than the parameters.
    """
    kept = _matched(slot.name, state, leaves)
    if not slot.store.has_scales:
        return kept
    scales = _matched(scales_of(slot.name), state, leaves)
    return [
        codes if scale is None else Blocks(codes, scale)
        for codes, scale in zip(kept, scales, strict=True)
    ]


def _matched(name: str, state: State, leaves: Leaves) -> list[Any]:
    return match_leaves(buffer_in(state, name), leaves, place_of(name))


def trees_of(slot: Slot, column: Sequence[Any]) -> dict[str, list[Any]]:
    """Undo `column_of`: the leaves of each tree of State, by the name of the tree.

    Codes and scales are two trees, each with one array for each parameter, so that
    whatever wraps a parameter (a Flax Variable, a sharding by path) can wrap them too.
    """
    codes = [b.codes if isinstance(b, Blocks) else b for b in column]
    if not slot.store.has_scales:
        return {slot.name: codes}
    scales = [b.scales if isinstance(b, Blocks) else None for b in column]
    return {slot.name: codes, scales_of(slot.name): scales}
