"""One call of `step` or `update`: gradients in, new parameters or updates out.

inputs      flatten; check gradients, state and shapes         (when traced)
plan        the rules and stores of each leaf                  (when traced)
accumulate  unscale, check, add to the window                  (if switched on)
norms       each global norm that a rule or a guard reads, once
scalars     rates, bias corrections, clip factors, once
conditional the pass over all leaves, if the step is due and its gradient good
measure     statistics                                         (if switched on)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp

from optadamw.base.errors import misplaced
from optadamw.base.hyperparameters import Clock
from optadamw.base.random_bits import step_key
from optadamw.base.tree import gradients_for, match_leaves, parameters
from optadamw.base.types import Array, PyTree
from optadamw.control.statistics import NORMS
from optadamw.leaf.program import Emit, LeafInput
from optadamw.native import library
from optadamw.rules.rule import Shared
from optadamw.store.state import State
from optadamw.walk.accumulate import Incoming, Intake
from optadamw.walk.arguments import refuse_misspelt
from optadamw.walk.axes import refuse_varying
from optadamw.walk.batches import in_batches
from optadamw.walk.composition import Composition
from optadamw.walk.conditional import (
    Outcome,
    Pass,
    always,
    if_step,
    if_update,
    no_update,
)
from optadamw.walk.decision import go_by_gradients, go_by_scalars
from optadamw.walk.inputs import Inputs, absent_of, check_state, checked_inputs
from optadamw.walk.measure import measure
from optadamw.walk.native import pass_by_kernels
from optadamw.walk.next_state import next_state
from optadamw.walk.norms import Norms, Scalars, chosen_rows, given_norm
from optadamw.walk.plan import plan_of
from optadamw.walk.programs import Programs
from optadamw.walk.scalars import scalars_of


def advance(
    composition: Composition,
    grads: PyTree,
    state: State,
    params: PyTree | None,
    extra: Mapping[str, Any],
    emit: Emit,
) -> tuple[PyTree, State]:
    """Take in gradients, and take the step if it is due and its gradients are good.

    Args:
      composition: the rules, and the parts around them.
      grads: the gradients.
      state: the state that `init` or the last call returned.
      params: the parameters; None: they were not passed to `update`.
      extra: `loss`, `weight` and `grad_norm`, if the caller passed them.
      emit: "param" returns the new parameters, "update" the updates.

    Raises:
      ValueError, TypeError: gradients, state and parameters do not fit together; the
        message has the path of the leaf.
    """
    if emit == "param":
        refuse_misspelt(extra)
    inputs = checked_inputs(composition, grads, state, params, emit)
    for name in composition.read_arguments:
        refuse_varying(name, extra.get(name))
    clock = Clock.at(state.step, state.hyperparameters)
    call = _Call(composition, inputs, state, clock, emit)
    if composition.control.accumulation is None:
        incoming = call.intake.whole(extra)
        given = extra.get("grad_norm")
    else:
        norm = call.norm_of_arrivals(extra.get("grad_norm"))
        incoming = call.intake.accumulated(extra, norm)
        given = None
    return call.conclude(incoming, given)


def flush(
    composition: Composition, state: State, params: PyTree, like: PyTree | None
) -> tuple[PyTree, State]:
    """Take the step of a partial window; without accumulation, change nothing."""
    if isinstance(params, State):
        raise TypeError(
            "`params` is a State; the order of the arguments is (state, params)."
        )
    if composition.control.accumulation is None:
        check_state(composition, state, absent_of(composition, state, params))
        return params, state
    leaves = parameters(params)
    plan = plan_of(composition, leaves, params)
    check_state(composition, state, absent_of(composition, state, params))
    accumulators = match_leaves(state.accumulator, leaves, "state.accumulator")
    buffers = zip(leaves.paths, accumulators, leaves.arrays, strict=True)
    for row, (path, buffer, array) in zip(plan.rows, buffers, strict=True):
        assert row.accumulator is not None
        row.accumulator.store.check(path, buffer, array)
    sums = accumulators
    if like is not None:
        marks = gradients_for(leaves, like)
        sums = [
            None if mark is None else total
            for mark, total in zip(marks, accumulators, strict=True)
        ]
    grads = leaves.treedef.unflatten(sums)
    inputs = checked_inputs(composition, grads, state, params, "param")
    clock = Clock.at(state.step, state.hyperparameters)
    call = _Call(composition, inputs, state, clock, "param")
    incoming = call.intake.partial_window(accumulators, find_present=like is None)
    return call.conclude(incoming, None)


@dataclass(frozen=True)
class _Call:
    """One call, after its arguments were checked."""

    composition: Composition
    inputs: Inputs
    state: State
    clock: Clock
    emit: Emit

    @cached_property
    def intake(self) -> Intake:
        """The gradients of this call, before accumulation."""
        control = self.composition.control
        return Intake(control, self.inputs, self.state, self.clock)

    def norm_of_arrivals(self, given: Any) -> Array | None:
        """Return the norm of this call's gradients if a guard may drop them by it."""
        control = self.composition.control
        guard = control.effective_guard
        if guard is None or not guard.drops:
            if given is not None:
                _refuse_unread(self.composition)
            return None
        if not self.inputs.moving:
            return None
        norms = Norms(
            rules=(),
            inputs=self.inputs,
            scale=self.intake.inverse,
            given=given_norm(given),
            rescued=control.loss_scale is not None,
        )
        return norms.of_gradients()[0]

    def conclude(self, incoming: Incoming, given: Any) -> tuple[PyTree, State]:
        """Take the step if it is due and its gradients are good; count the events."""
        composition, state, clock = self.composition, self.state, self.clock
        control, inputs = composition.control, incoming.inputs
        arrival = incoming.arrival
        # Accumulated gradients were already unscaled in their own calls.
        is_scaled = control.loss_scale is not None and control.accumulation is None
        norms = Norms(
            rules=composition.rules,
            inputs=inputs,
            scale=incoming.scale,
            is_due=arrival.is_due,
            given=given_norm(given),
            rescued=control.effective_guard is None or is_scaled,
            groups=inputs.plan.measured,
        )
        go, checks = go_by_gradients(control, state, arrival, norms)
        shared = [Shared(rules, clock) for rules in composition.variants]
        scalars, read = scalars_of(norms, shared, clock)
        go, legal = go_by_scalars(control, go, read, inputs, shared, clock)
        measured = None
        if control.statistics is not None:
            rest = composition.variants[-1]
            measured = measure(
                control.statistics, rest, norms, scalars, clock, shared[-1]
            )
        outcome = self._run(incoming, scalars, go)
        library.finish()  # the norm, which was compiled beside the kernels
        clipped = None if measured is None else measured.clipped
        fields = control.next_scalars(state, arrival, checks, go, legal, clipped)
        if measured is not None:
            assert state.stats is not None
            fields["stats"] = measured.finished(outcome.measured, go, state.stats)
        if incoming.accumulators is not None:
            fields["accumulator"] = inputs.tree(incoming.accumulators)
        outputs, columns = self._all_leaves(inputs, outcome)
        gate = go if control.is_gated else None
        after = next_state(state, inputs, clock, gate, columns, fields)
        return inputs.tree(outputs), after

    def _run(self, incoming: Incoming, scalars: Scalars, go: Array) -> Outcome:
        """Run the rules on every leaf that has a gradient, if `go`."""
        composition, inputs = self.composition, incoming.inputs
        of = Programs(composition, self.emit).of
        leaves = []
        for i in inputs.moving:
            scale, dtype = incoming.scale, inputs.dtypes[i]
            leaves.append(
                inputs.leaves[i]._replace(
                    scalars=chosen_rows(scalars[inputs.key(i)], inputs.row(i)),
                    scale=None if scale is None else scale.astype(dtype),
                )
            )
        present = incoming.present
        if present is not None:
            present = [present[i] for i in inputs.moving]
        measured = None
        members: tuple[tuple[int, ...], ...] = ()
        statistics, stats = composition.control.statistics, self.state.stats
        if statistics is not None and statistics.norms:
            assert stats is not None
            members = inputs.places_of([inputs.moving, *inputs.plan.measured])
            rows = [stats[name] for name in statistics.names]
            measured = jnp.stack([row[-len(NORMS) :] for row in rows])
        programs = tuple(of(inputs.row(i)) for i in inputs.moving)
        inputs.check_whole()
        axes = inputs.summed_axes("the norm of its update") if members else ()
        if composition.has_reproducible_norms and any(axes):
            raise _unordered()
        layouts = () if inputs.layouts is None else inputs.layouts
        own = tuple(layouts[i] for i in inputs.moving if layouts)
        moving = tuple(inputs.moving)
        key = Pass(programs, moving, members, axes, own, composition.offload)
        bits = step_key(composition.seed.value, self.state.step)
        gate = go if composition.control.is_gated else None

        def by_xla(key: Pass, leaves: Sequence[LeafInput]) -> Outcome:
            run = if_step if self.emit == "param" else if_update
            if key.offload and self.emit == "param":
                run = in_batches
            elif gate is None:
                return always(key, leaves, bits, present)
            return run(key, leaves, bits, present, gate, measured)

        choice = composition.kernel_choice
        # The partial window of a flush chooses anew for each leaf.
        if choice == "xla" or present is not None:
            return by_xla(key, leaves)
        paths = [inputs.plan.leaves.paths[i] for i in moving]
        return pass_by_kernels(choice, key, leaves, bits, gate, paths, by_xla)

    def _all_leaves(
        self, inputs: Inputs, outcome: Outcome
    ) -> tuple[list[Any], dict[str, Sequence[Any]]]:
        """Return outputs and buffers of all leaves, also those without gradient."""
        outputs: list[Any] = []
        columns: dict[str, Any] = {slot.name: [] for slot in self.composition.slots}
        for i, leaf in enumerate(inputs.leaves):
            place = inputs.places.get(i)
            if place is not None:
                output, buffers = outcome.outputs[place], outcome.buffers[place]
            elif self.emit == "param":
                output, buffers = leaf.param, leaf.buffers
            else:
                like, dtype = inputs.still(i), self.composition.update_dtype
                output = None if like is None else no_update(like, dtype)
                buffers = leaf.buffers
            outputs.append(output)
            for name, column in columns.items():
                column.append(buffers[name])
        return outputs, columns


def _unordered() -> ValueError:
    return misplaced(
        "stats='norms' takes norms of updates and parameters part by part inside "
        "shard_map, and the sum over its devices depends on the mesh, which "
        "with_reproducible_norms excludes.",
        "Use stats=True, or take the step outside shard_map.",
    )


def _refuse_unread(composition: Composition) -> None:
    """Refuse the norm of one micro-batch if only that of the mean is read.

    Raises:
      ValueError: a rule, the guard or the statistics read a norm.
    """
    control = composition.control
    reads = [rule.verb for rule in composition.rules if rule.reads_norm]
    reads += ["the guard"] if control.effective_guard is not None else []
    reads += ["with_stats"] if control.statistics is not None else []
    if reads:
        raise ValueError(
            "`grad_norm` is the norm of one micro-batch, and "
            f"{' and '.join(reads)} read the norm of the mean of the window, which is "
            "measured. Leave `grad_norm` out; inside shard_map with_axes(...) sums the "
            "norm over the devices."
        )
