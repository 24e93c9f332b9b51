"""The inputs of one step: gradient, parameter and buffers of each leaf, checked."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import at_leaf
from optadamw.base.numerics import compute_dtype, largest_square_root
from optadamw.base.tree import Leaves, flatten, gradients_for, parameters
from optadamw.base.types import PyTree
from optadamw.leaf.program import Emit, LeafInput
from optadamw.rules.order import check_variants
from optadamw.store.absent import Absent
from optadamw.store.blockwise import BlockStore
from optadamw.store.check_state import check_fields, check_scalars
from optadamw.store.columns import column_of, trees_of
from optadamw.store.state import State, buffers_in, scales_of
from optadamw.walk.axes import (
    LeafAxes,
    leaf_axes,
    refuse_summands,
    refuse_undeclared,
    refuse_unreduced,
)
from optadamw.walk.composition import Composition
from optadamw.walk.offload import check_place, on_host
from optadamw.walk.plan import LeafPlan, Plan, plan_of
from optadamw.walk.zero1 import LeafLayout, layouts_of, put

Key = tuple[np.dtype, int]
"""A dtype of computation and a group: leaves with the same key share their scalars."""


@dataclass(frozen=True)
class Inputs:
    """Gradient, parameter and buffers of each leaf, in the order of the tree."""

    plan: Plan
    leaves: tuple[LeafInput, ...]
    dtypes: tuple[np.dtype, ...]
    """The dtype in which the rules compute on each leaf."""
    layouts: tuple[LeafLayout, ...] | None = None
    """The layouts of each leaf under `with_zero1`; None: there are none."""

    @cached_property
    def moving(self) -> list[int]:
        """The positions of the leaves that have a gradient."""
        return [i for i, leaf in enumerate(self.leaves) if leaf.grad is not None]

    @cached_property
    def places(self) -> dict[int, int]:
        """Maps the position of a leaf that has a gradient to its index in `moving`."""
        return {position: number for number, position in enumerate(self.moving)}

    def places_of(self, groups: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
        """Return groups of positions as indices in `moving`; others are left out."""
        return tuple(
            tuple(self.places[i] for i in group if i in self.places) for group in groups
        )

    def key(self, position: int) -> Key:
        """Return the key of the scalars of one leaf."""
        return self.dtypes[position], self.plan.rows[position].group

    def row(self, position: int) -> LeafPlan:
        """Return the plan of one leaf."""
        return self.plan.rows[position]

    def still(self, position: int) -> Any | None:
        """Return the array that an update of a leaf without gradient is like.

        It is the parameter. Without parameters it is the gradient of a frozen leaf, and
        None for a leaf that got no gradient.
        """
        param = self.leaves[position].param
        if param is None and self.plan.is_frozen(position):
            return self.plan.leaves.arrays[position]
        return param

    @cached_property
    def axes(self) -> tuple[LeafAxes, ...] | None:
        """The axes of each leaf inside `shard_map`; None outside."""
        return leaf_axes(self.plan.axes, self.leaves, self.plan.leaves.paths)

    def summed_axes(self, reader: str) -> tuple[tuple[str, ...], ...]:
        """Return the axes over which a norm of each moving leaf is summed.

        Raises:
          ValueError: a leaf differs between devices, and `with_axes` does not say how.
        """
        if self.axes is None:
            return ()
        for i in self.moving:
            refuse_undeclared(self.plan.leaves.paths[i], self.axes[i], reader)
        return tuple(self.axes[i].summed for i in self.moving)

    def check_whole(self) -> None:
        """Refuse rules that sum over a parameter of which each device has a part."""
        if self.axes is None:
            return
        variants = self.plan.composition.variants
        for i in self.moving:
            row, path, axes = self.row(i), self.plan.leaves.paths[i], self.axes[i]
            for rule in row.chosen(variants[row.group]):
                if not rule.sums:
                    continue
                refuse_undeclared(path, axes, f"the sum that {rule.verb} takes")
                if axes.summed:
                    raise at_leaf(
                        path,
                        f"{rule.verb} computes on whole parameters, and inside "
                        f"shard_map each device of {', '.join(axes.summed)} has a part "
                        "of this one.",
                        "Leave it out, or take the step outside shard_map.",
                    )

    @property
    def largest_norm(self) -> float:
        """The largest norm with which the squares of all elements are finite."""
        return min(largest_square_root(self.dtypes[i]) for i in self.moving)

    def tree(self, values: Sequence[Any]) -> PyTree:
        """Return a tree with the structure of the parameters, from a value per leaf."""
        return self.plan.leaves.treedef.unflatten(values)

    def with_gradients(self, grads: Sequence[Any]) -> "Inputs":
        """Return these leaves with other gradients."""
        pairs = zip(self.leaves, grads, strict=True)
        return replace(self, leaves=tuple(leaf._replace(grad=g) for leaf, g in pairs))


def checked_inputs(
    composition: Composition,
    grads: PyTree,
    state: State,
    params: PyTree | None,
    emit: Emit,
) -> Inputs:
    """Check gradients, state and parameters of a call, and gather them by leaf.

    Raises:
      ValueError, TypeError: gradients, state and parameters do not fit together; the
        message has the path of the leaf.
    """
    if isinstance(params, State):
        raise TypeError(
            "`params` is a State; the order of the arguments is (grads, state, params)."
        )
    # A transformation used alone or in optax.chain was never checked by `chain`.
    check_variants(composition.variants)
    leaves: Leaves
    if params is None:
        _refuse_missing_params(composition, emit)
        leaves = flatten(grads, keep_none=True)
    else:
        leaves = parameters(params)
    matched = gradients_for(leaves, grads)
    composition.check_guard()
    plan = plan_of(composition, leaves, grads if params is None else params)
    scalars = check_state(composition, state, _absent(plan))
    check_scalars(state, scalars)
    layouts = layouts_of(composition.zero1, leaves)
    if layouts is None:  # with_zero1 reduces and scatters them
        for path, grad in zip(leaves.paths, matched, strict=True):
            refuse_unreduced(path, grad)
    inputs = _inputs_of(plan, matched, params, state, layouts)
    if inputs.axes is not None:
        for path, axes in zip(leaves.paths, inputs.axes, strict=True):
            refuse_summands(path, axes)
    return inputs


def check_state(
    composition: Composition, state: Any, absent: Collection[str] = ()
) -> Mapping[str, Any]:
    """Refuse an object that is no `State`, or not one of this composition.

    Args:
      composition: the rules, and the parts around them.
      state: the argument `state` of a call.
      absent: the trees that may be None, from `absent_of`. Default: none.

    Returns:
      The fields that are not trees, before the first step.
    """
    buffers = (name for slot in composition.buffers for name in trees_of(slot, ()))
    scalars = composition.initial_scalars()
    check_fields(state, (*buffers, *scalars), absent)
    return scalars


def absent_of(composition: Composition, state: Any, params: PyTree | None) -> set[str]:
    """Return the trees of a State that may be None: parameters of one array lack them.

    A tree with more nodes has None at the places of the leaves that lack a buffer.

    Args:
      composition: the rules, and the parts around them.
      state: the state.
      params: the parameters; None: they are not known. Then the scales of one array
        that is not in 8 bits may be None; and, if the state has no tree and a group is
        frozen, all trees.
    """
    if params is not None:
        is_one = jax.tree_util.all_leaves([params])
        leaves = parameters(params) if is_one else None
        return _absent(plan_of(composition, leaves, params)) if leaves else set()
    held = buffers_in(state) if isinstance(state, State) else {}
    if not held and any(map(composition.is_frozen, range(len(composition.variants)))):
        return {x for slot in composition.buffers for x in trees_of(slot, ())}
    return {
        scales_of(name)
        for name, tree in held.items()
        if jax.tree_util.all_leaves([tree])
        and jnp.issubdtype(getattr(tree, "dtype", bool), jnp.inexact)
    }


def _absent(plan: Plan) -> set[str]:
    """Return the trees that are None for these parameters."""
    treedef = plan.leaves.treedef
    if not plan.rows or not jax.tree_util.treedef_is_leaf(treedef):
        return set()  # an empty tree has one node too
    absent = set()
    pairs = zip(plan.composition.buffers, plan.rows[0].buffers, strict=True)
    for slot, own in pairs:
        if isinstance(own.store, Absent):
            absent.add(slot.name)
        if not isinstance(own.store, BlockStore):
            absent.add(scales_of(slot.name))
    return absent


def _refuse_missing_params(composition: Composition, emit: Emit) -> None:
    if emit == "param":
        raise ValueError(
            "`params` is missing, and a step returns the next parameters. Call "
            "tx.step(grads, state, params)."
        )
    if composition.zero1 is not None:
        raise ValueError(
            "`params` is missing, and with_zero1 needs the layout of the parameters. "
            "Call tx.update(grads, state, params)."
        )
    for rule in composition.rules:
        if rule.needs_params:
            raise ValueError(
                f"`params` is missing, and {rule.verb} needs the current value of "
                "the parameters. Call tx.update(grads, state, params)."
            )


def _inputs_of(
    plan: Plan,
    grads: Sequence[Any],
    params: PyTree | None,
    state: State,
    layouts: tuple[LeafLayout, ...] | None,
) -> Inputs:
    """Gather gradient, parameter and buffers of each leaf.

    Raises:
      ValueError, TypeError: the buffers have another structure, shape or dtype than
        the plan.
    """
    slots = plan.composition.slots
    columns = {slot.name: column_of(slot, state, plan.leaves) for slot in slots}
    plan = plan.fitted(columns)
    offloaded = plan.composition.offload
    leaves, dtypes = [], []
    for i, given in enumerate(grads):
        array = plan.leaves.arrays[i]
        is_frozen = plan.is_frozen(i)
        grad = None if is_frozen else given
        param = None if params is None else array
        buffers = {name: column[i] for name, column in columns.items()}
        dtype = np.dtype(np.float32)
        if grad is not None or is_frozen:
            for slot in plan.rows[i].slots:
                path, buffer = plan.leaves.paths[i], buffers[slot.name]
                slot.store.check(path, buffer, array)
                check_place(path, slot.name, buffer, slot.name in offloaded)
        # A state that was restored to the device is moved at its first step.
        buffers = on_host(buffers, offloaded)
        if grad is not None:
            grad = jnp.asarray(grad)
            if layouts is not None:
                grad = put(grad, layouts[i].away)
            dtype = compute_dtype((grad if param is None else param).dtype)
        leaves.append(LeafInput(grad, param, buffers))
        dtypes.append(dtype)
    return Inputs(plan, tuple(leaves), tuple(dtypes), layouts)
