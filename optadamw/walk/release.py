"""One step taken in parts, each as soon as the gradients of its parameters exist.

The scalars of the step (rates, bias corrections) depend on no gradient, so they are
known before the backward pass. A rule that needs a number of all gradients has no
place here: `walk.release_check` names it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optadamw.base.errors import at_leaf, misplaced, mistyped
from optadamw.base.hyperparameters import Clock
from optadamw.base.random_bits import step_key
from optadamw.base.tree import Leaves, gradients_for
from optadamw.base.types import Array, PyTree
from optadamw.control.control import Arrival
from optadamw.control.signals import check_signal
from optadamw.leaf.program import LeafInput
from optadamw.native import library
from optadamw.rules.rule import Shared
from optadamw.store.state import State
from optadamw.walk.composition import Composition
from optadamw.walk.conditional import Pass, always, if_step
from optadamw.walk.decision import go_by_gradients, go_by_scalars
from optadamw.walk.inputs import Inputs, checked_inputs
from optadamw.walk.layers import Layer, plan_of_layer, site_of_layer
from optadamw.walk.next_state import next_state
from optadamw.walk.norms import Norms, Scalars, chosen_rows
from optadamw.walk.plan import LeafPlan
from optadamw.walk.programs import Programs
from optadamw.walk.release_check import refuse_whole
from optadamw.walk.scalars import scalars_of


class Moved(NamedTuple):
    """Some leaves after their step."""

    held: list[tuple[Any, Any]]
    """Parameter and buffers of each leaf."""
    good: Array | None
    """Whether the gradients were good and the leaves stepped; None: no guard."""


@dataclass(frozen=True, eq=False)
class OpenStep:
    """A step of which the scalars are computed and no parameter has moved yet."""

    composition: Composition
    state: State
    inputs: Inputs
    """All leaves; their gradients stand for those that are still to come."""

    clock: Clock
    """The time of this step."""
    scalars: Scalars
    """The scalars of the rules, by dtype of computation and group."""
    legal: Array | None
    """Whether the hyperparameters are legal in this step; None: no guard."""
    bits: Array
    """The key of the random bits of this step."""

    def held(self, positions: Sequence[int]) -> list[tuple[Any, Any]]:
        """Return parameter and buffers of some leaves."""
        leaves = [self.inputs.leaves[i] for i in positions]
        return [(leaf.param, leaf.buffers) for leaf in leaves]

    def checked(self, positions: Sequence[int], treedef: Any, grads: Any) -> list[Any]:
        """Return the gradients of some leaves, checked as those of a step.

        Raises:
          ValueError, TypeError: they do not fit the parameters.
        """
        whole = self.inputs.plan.leaves
        keys = tuple(whole.keys[i] for i in positions)
        arrays = tuple(whole.arrays[i] for i in positions)
        return gradients_for(Leaves(keys, arrays, treedef), grads)

    def move(
        self,
        positions: Sequence[int],
        held: Sequence[tuple[Any, Any]],
        grads: Sequence[Any],
        layer: Layer | None = None,
    ) -> Moved:
        """Take the step of some leaves, or of one layer of stacked leaves.

        Args:
          positions: the positions of the leaves in the tree of parameters.
          held: parameter and buffers of each leaf, without the axis of the layers.
          grads: the gradient of each leaf; None: it does not change.
          layer: the layer; None (default): the leaves are no stacks.
        """
        inputs = self._part(positions, held, grads, layer)
        moving = inputs.moving
        made = list(held)
        if not moving:
            return Moved(made, None)
        inputs.check_whole()
        programs = Programs(self.composition, "param")
        leaves, of = [], []
        for i in moving:
            row = inputs.row(i)
            program = programs.of(row)
            of.append(program)
            site = None
            if layer is not None and program.draws:
                site = site_of_layer(self.bits, positions[i], layer, layer.shapes[i])
            rows = chosen_rows(self.scalars[inputs.key(i)], row)
            leaves.append(inputs.leaves[i]._replace(scalars=rows, site=site))
        key = Pass(tuple(of), tuple(positions[i] for i in moving))
        good, go = None, None
        if self.legal is not None:
            norms, control = Norms((), inputs, rescued=False), self.composition.control
            good, _ = go_by_gradients(control, self.state, Arrival(), norms)
            good = go = good & self.legal
        elif layer is not None:
            # Always true, which XLA does not know. Behind a loop it cannot fuse a layer
            # with its stack, for which XLA's CPU backend copied two stacks.
            go = self.state.step >= 0
        outcome = (
            always(key, leaves, self.bits)
            if go is None
            else if_step(key, leaves, self.bits, None, go, None)
        )
        library.finish()  # the norm, which was compiled beside the kernels
        stepped = zip(outcome.outputs, outcome.buffers, strict=True)
        for i, pair in zip(moving, stepped, strict=True):
            made[i] = pair
        return Moved(made, good)

    def close(
        self, moved: dict[int, tuple[Any, Any]], good: Sequence[Array]
    ) -> tuple[PyTree, State]:
        """Return parameters and state after all leaves were moved.

        Args:
          moved: parameter and buffers of each leaf, by position.
          good: whether the gradients of each part were good; empty without a guard.

        Raises:
          ValueError: a leaf that is not frozen was not moved.
        """
        leaves, inputs = self.inputs.plan.leaves, self.inputs
        for i, path in enumerate(leaves.paths):
            if i not in moved and not self._is_frozen(i):
                raise at_leaf(
                    path,
                    "no part of the step has moved it.",
                    "Pass the part of every parameter to finish, and freeze those that "
                    "do not train.",
                )
        held = [
            moved.get(i, pair)
            for i, pair in enumerate(self.held(range(len(inputs.leaves))))
        ]
        control = self.composition.control
        fields: dict[str, Any] = {}
        any_part = None
        if self.legal is not None:
            parts = jnp.stack([*good]) if good else jnp.zeros(1, bool)
            every, any_part = parts.all(), parts.any()
            # An illegal hyperparameter stops all parts, and is no bad gradient.
            norm = jnp.where(every | ~self.legal, 0.0, jnp.nan)
            known = jnp.ones((), bool)
            check = check_signal(None, self.state, "grad_norm", norm, known)
            fields = control.next_scalars(
                self.state, Arrival(), [check], any_part, self.legal, None
            )
        columns = {
            slot.name: [buffers[slot.name] for _, buffers in held]
            for slot in self.composition.slots
        }
        after = next_state(self.state, inputs, self.clock, any_part, columns, fields)
        return inputs.tree([param for param, _ in held]), after

    def _is_frozen(self, position: int) -> bool:
        return self.inputs.plan.is_frozen(position)

    def _part(
        self,
        positions: Sequence[int],
        held: Sequence[tuple[Any, Any]],
        grads: Sequence[Any],
        layer: Layer | None,
    ) -> Inputs:
        """Return the inputs of some leaves only."""
        plan, whole = self.inputs.plan, self.inputs.plan.leaves
        rows, leaves = [], []
        for number, (i, (param, buffers), grad) in enumerate(
            zip(positions, held, grads, strict=True)
        ):
            row = plan.rows[i]
            if layer is not None:
                row = plan_of_layer(whole.paths[i], row, layer.shapes[number])
                self._refuse_sums(i, row)
            rows.append(row)
            leaves.append(
                LeafInput(None if self._is_frozen(i) else grad, param, buffers)
            )
        tree = Leaves(
            tuple(whole.keys[i] for i in positions),
            tuple(param for param, _ in held),
            jax.tree.structure([0] * len(held)),
        )
        axes = tuple(plan.axes[i] for i in positions) if plan.axes else ()
        part = replace(plan, leaves=tree, rows=tuple(rows), measured=(), axes=axes)
        return Inputs(
            part, tuple(leaves), tuple(self.inputs.dtypes[i] for i in positions)
        )

    def _refuse_sums(self, position: int, row: LeafPlan) -> None:
        for rule in row.chosen(self.composition.variants[row.group]):
            if rule.sums:
                raise at_leaf(
                    self.inputs.plan.leaves.paths[position],
                    f"{rule.verb} computes on a whole parameter, and a stack of layers "
                    "is moved one layer at a time.",
                    "Leave it out, or make each layer a parameter of its own.",
                )


def open_step(composition: Composition, state: State, params: PyTree) -> OpenStep:
    """Check state and parameters, and open a step that is taken in parts.

    Raises:
      ValueError, TypeError: state and parameters do not fit together, or something in
        the composition needs all gradients at once.
    """
    refuse_whole(composition)
    # Gradients have the shapes of the parameters, which stand in their place until
    # they are there.
    inputs = checked_inputs(composition, params, state, params, "param")
    clock = Clock.at(state.step, state.hyperparameters)
    shared = [Shared(rules, clock) for rules in composition.variants]
    scalars, _ = scalars_of(Norms(composition.rules, inputs), shared, clock)
    go = jnp.ones((), bool)
    _, legal = go_by_scalars(composition.control, go, (), inputs, shared, clock)
    bits = step_key(composition.seed.value, state.step)
    return OpenStep(composition, state, inputs, clock, scalars, legal, bits)


def positions_of(
    leaves: Leaves, where: Callable[[PyTree], PyTree]
) -> tuple[tuple[int, ...], Any]:
    """Return the positions of the leaves of a subtree, and its structure.

    Raises:
      TypeError: `where` is no function, or returns no part of the tree it gets.
      ValueError: the subtree has no leaf.
    """
    if not callable(where):
        raise mistyped(
            "where",
            "a function that returns a part of the parameters",
            where,
            'Pass for example lambda params: params["layers"].',
        )
    count = len(leaves.keys)
    found, treedef = jax.tree.flatten(where(leaves.treedef.unflatten(range(count))))
    known = all(type(i) is int and 0 <= i < count for i in found)
    if not known or len(set(found)) != len(found) or not found:
        raise misplaced(
            f"`where` must return a part of the parameters that it gets; got {found!r} "
            f"from the numbers 0 to {count - 1} in their places.",
            'Pass for example lambda params: params["layers"].',
        )
    return tuple(found), treedef
