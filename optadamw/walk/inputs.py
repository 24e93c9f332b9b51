"""The inputs of one step: gradient, parameter and buffers of each leaf, checked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np

from optadamw.base.numerics import compute_dtype, largest_square_root
from optadamw.base.tree import Leaves, flatten, gradients_for, parameters
from optadamw.base.types import PyTree
from optadamw.leaf.program import Emit, LeafInput
from optadamw.rules.order import check_order
from optadamw.store.check_state import check_fields, check_scalars
from optadamw.store.columns import column_of, trees_of
from optadamw.store.state import State
from optadamw.walk.composition import Composition
from optadamw.walk.plan import LeafPlan, Plan, plan_of

Key = tuple[np.dtype, int]
"""A dtype of computation and a group: leaves of one key share their scalars."""


@dataclass(frozen=True)
class Inputs:
    """The leaves of one step, in the order of the tree."""

    plan: Plan
    leaves: tuple[LeafInput, ...]
    dtypes: tuple[np.dtype, ...]
    """For each leaf the dtype in which the rules compute."""

    @cached_property
    def moving(self) -> list[int]:
        """The positions of the leaves that have a gradient."""
        return [i for i, leaf in enumerate(self.leaves) if leaf.grad is not None]

    @cached_property
    def places(self) -> dict[int, int]:
        """For each moving leaf, by its position, its number among the moving ones."""
        return {position: number for number, position in enumerate(self.moving)}

    def places_of(self, groups: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
        """For groups of positions the numbers of those that move."""
        return tuple(
            tuple(self.places[i] for i in group if i in self.places) for group in groups
        )

    def key(self, position: int) -> Key:
        """Which scalars a leaf is given."""
        return self.dtypes[position], self.plan.rows[position].group

    def row(self, position: int) -> LeafPlan:
        """The plan of one leaf."""
        return self.plan.rows[position]

    @property
    def largest_norm(self) -> float:
        """The norm up to which the square of every element is finite."""
        return min(largest_square_root(self.dtypes[i]) for i in self.moving)

    def tree(self, values: Sequence[Any]) -> PyTree:
        """A tree like the parameters, of a value for each leaf."""
        return self.plan.leaves.treedef.unflatten(values)

    def with_gradients(self, grads: Sequence[Any]) -> "Inputs":
        """These leaves with other gradients."""
        pairs = zip(self.leaves, grads, strict=True)
        return replace(self, leaves=tuple(leaf._replace(grad=g) for leaf, g in pairs))


def checked_inputs(
    composition: Composition,
    grads: PyTree,
    state: State,
    params: PyTree | None,
    emit: Emit,
) -> Inputs:
    """Check everything that a call is given, and look at the tree once.

    Raises:
      ValueError, TypeError: gradients, state or parameters that do not fit together,
        with the path of the leaf.
    """
    if isinstance(params, State):
        raise TypeError(
            "`params` is a State; the order of the arguments is (grads, state, params)."
        )
    # As in `init`: an atom that optax.chain combines with others was never checked.
    check_order(composition.rules)
    leaves: Leaves
    if params is None:
        _refuse_missing_params(composition, emit)
        leaves = flatten(grads, keep_none=True)
    else:
        leaves = parameters(params)
    matched = gradients_for(leaves, grads)
    composition.check_guard()
    check_state(composition, state)
    check_scalars(state, composition.control.initial_scalars())
    plan = plan_of(composition, leaves, grads if params is None else params)
    return _inputs_of(plan, matched, params, state)


def check_state(composition: Composition, state: Any) -> None:
    """Refuse an object that is no State of this composition."""
    buffers = (name for slot in composition.buffers for name in trees_of(slot, ()))
    check_fields(state, (*buffers, *composition.control.initial_scalars()))


def _refuse_missing_params(composition: Composition, emit: Emit) -> None:
    if emit == "param":
        raise ValueError(
            "`params` is missing, and a step returns the next ones. Call "
            "tx.step(grads, state, params)."
        )
    for rule in composition.rules:
        if rule.needs_params:
            raise ValueError(
                f"`params` is missing, and {rule.verb} needs the current value of "
                "the parameters. Call tx.update(grads, state, params)."
            )


def _inputs_of(
    plan: Plan, grads: Sequence[Any], params: PyTree | None, state: State
) -> Inputs:
    """Put everything about each leaf in one place.

    Raises:
      ValueError, TypeError: buffers of another structure, shape or dtype.
    """
    slots = plan.composition.slots
    columns = {slot.name: column_of(slot, state, plan.leaves) for slot in slots}
    leaves, dtypes = [], []
    for i, grad in enumerate(grads):
        array = plan.leaves.arrays[i]
        param = None if params is None else array
        buffers = {name: column[i] for name, column in columns.items()}
        dtype = np.dtype(np.float32)
        if grad is not None:
            for slot in plan.rows[i].slots:
                slot.store.check(plan.leaves.paths[i], buffers[slot.name], array)
            grad = jnp.asarray(grad)
            dtype = compute_dtype((grad if param is None else param).dtype)
        leaves.append(LeafInput(grad, param, buffers))
        dtypes.append(dtype)
    return Inputs(plan, tuple(leaves), tuple(dtypes))
