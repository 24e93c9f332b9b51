"""The leaves of one step: gradients, parameters and buffers, checked and in a row."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.numerics import compute_dtype, largest_square_root
from optadamw.base.tree import Leaves, check_parameters, flatten, match_leaves
from optadamw.base.types import PyTree
from optadamw.store.block_code import Blocks
from optadamw.store.slot import Slot
from optadamw.store.state import SCALES, TREES, State


class Choice(NamedTuple):
    """Which rules a leaf goes through."""

    group: int
    applies: tuple[bool, ...]
    """Which of the rules of its group apply to it."""
    slots: tuple[Slot, ...] = ()
    """Its buffers, each with its own store."""


Key = tuple[np.dtype, int]
"""A dtype of computation and a group: leaves of one key share their scalars."""


class Item(NamedTuple):
    """One leaf of the tree: everything that its leaf function is given."""

    grad: Any | None
    param: Any | None
    buffers: dict[str, Any]
    choice: Choice
    dtype: np.dtype
    """In which the rules compute."""

    @property
    def key(self) -> "Key":
        """Whose scalars it is given."""
        return self.dtype, self.choice.group

    @property
    def like(self) -> Any:
        """What has the shape and dtype of the parameter."""
        return self.grad if self.param is None else self.param


@dataclass(frozen=True)
class Work:
    """The leaves of one step, in the order of the tree."""

    leaves: Leaves
    items: list[Item]

    @cached_property
    def moving(self) -> list[int]:
        """The leaves that have a gradient."""
        return [i for i, item in enumerate(self.items) if item.grad is not None]

    @cached_property
    def rows(self) -> dict[int, int]:
        """Where each of them stands among them."""
        return {leaf: row for row, leaf in enumerate(self.moving)}

    def rows_of(self, groups: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
        """The same for groups of leaves, those without a gradient left out."""
        return tuple(
            tuple(self.rows[leaf] for leaf in group if leaf in self.rows)
            for group in groups
        )

    @property
    def largest_norm(self) -> float:
        """The norm up to which the square of every element is finite."""
        return min(largest_square_root(self.items[i].dtype) for i in self.moving)

    def tree(self, values: Sequence[Any]) -> PyTree:
        return self.leaves.treedef.unflatten(values)

    def with_gradients(self, grads: Sequence[Any]) -> "Work":
        items = [
            item._replace(grad=grad)
            for item, grad in zip(self.items, grads, strict=True)
        ]
        return replace(self, items=items)


def gathered(
    leaves: Leaves,
    grads: Sequence[Any],
    params: PyTree | None,
    state: State,
    slots: Sequence[Slot],
    choices: Sequence[Choice],
) -> Work:
    """Put everything about one leaf in one place; `leaves` are the parameters'."""
    columns = {slot.name: joined(slot, state, leaves) for slot in slots}
    items = []
    for i, grad in enumerate(grads):
        array = None if params is None else leaves.arrays[i]
        buffers = {name: column[i] for name, column in columns.items()}
        dtype = np.dtype(np.float32)
        if grad is not None:
            for slot in choices[i].slots:
                slot.store.check(leaves.paths[i], buffers[slot.name], leaves.arrays[i])
            grad = jnp.asarray(grad)
            dtype = compute_dtype((grad if array is None else array).dtype)
        items.append(Item(grad, array, buffers, choices[i], dtype))
    return Work(leaves, items)


def joined(slot: Slot, state: State, leaves: Leaves) -> list[Any]:
    """A buffer of every leaf, out of the fields of State that hold it."""
    name = slot.name
    kept = match_leaves(getattr(state, name), leaves, f"state.{name}")
    if not slot.store.has_scales:
        return kept
    field = SCALES[name]
    scales = match_leaves(getattr(state, field), leaves, f"state.{field}")
    return [
        codes if scale is None else Blocks(codes, scale)
        for codes, scale in zip(kept, scales, strict=True)
    ]


def split(slot: Slot, buffers: Sequence[Any]) -> dict[str, list[Any]]:
    """The inverse: for each field of State what it holds, leaf by leaf.

    Codes and scales are trees of their own, each like the parameters' with an array at
    every leaf: what wraps a parameter (a Flax Variable, a sharding by path) wraps them.
    """
    codes = [b.codes if isinstance(b, Blocks) else b for b in buffers]
    if not slot.store.has_scales:
        return {slot.name: codes}
    scales = [b.scales if isinstance(b, Blocks) else None for b in buffers]
    return {slot.name: codes, SCALES[slot.name]: scales}


def check_buffers(state: State, leaves: Leaves, slots: Sequence[Slot]) -> None:
    """Refuse buffers of another structure, shape or dtype than the parameters'."""
    for slot in slots:
        kept = match_leaves(getattr(state, slot.name), leaves, f"state.{slot.name}")
        for path, buffer, array in zip(leaves.paths, kept, leaves.arrays, strict=True):
            slot.store.check(path, buffer, array)


def check_fields(state: Any, kept: Sequence[str]) -> None:
    """Refuse what is no State, or the State of another configuration."""
    if not isinstance(state, State):
        raise TypeError(
            f"`state` must be the State that tx.init(params) returned; got "
            f"{type(state).__name__}. A state of another library is not read "
            "here, and tx.init starts afresh."
        )
    for name in State._fields[1:]:  # `step` is always there, or check_small tells
        present = getattr(state, name) is not None
        if present != (name in kept):
            has = "holds" if present else "lacks"
            what = f"the buffer `{name}`" if name in TREES else f"`{name}`"
            raise ValueError(
                f"`state` {has} {what}, which this transformation "
                f"{'does not keep' if present else 'keeps'}: it is the state of "
                "another one. Use the state that this tx.init(params) returned, or "
                "carry the old one over by name with checkpoint.restore."
            )


def parameters(params: PyTree) -> Leaves:
    """The leaves of a tree of parameters, checked, as JAX sees them."""
    leaves = flatten(params)
    check_parameters(leaves)
    return leaves._replace(arrays=tuple(_as_array(a) for a in leaves.arrays))


def _as_array(leaf: Any) -> Any:
    """Numbers and NumPy arrays as JAX sees them (float64 only with x64 on)."""
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return leaf
    return jnp.asarray(leaf)
