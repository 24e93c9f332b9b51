"""Take gradients in: unscale them, check them, add them to their window."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optadamw.base.hyperparameters import Clock
from optadamw.base.numerics import as_reals, compute_dtype, saturating_increment
from optadamw.base.tree import match_leaves
from optadamw.base.types import Array
from optadamw.control.accumulation import ABORTED, weight_of
from optadamw.control.control import Arrival, Control
from optadamw.control.signals import Check
from optadamw.leaf.compute import accumulate_leaf
from optadamw.store.state import State
from optadamw.walk.inputs import Inputs
from optadamw.walk.zero1 import kept_away


class Incoming(NamedTuple):
    """The gradients for the rules of this call, after accumulation."""

    inputs: Inputs
    """The leaves of this call, with accumulated gradients under `multi_steps`."""
    scale: Array | None
    """The factor by which the rules multiply these gradients; None: 1."""
    arrival: Arrival
    accumulators: list[Any] | None = None
    """The accumulators for the next state, one for each leaf; None: there are none."""
    present: list[Array] | None = None
    """For a flush, whether each leaf had a gradient in the window; None: all had."""


@dataclass(frozen=True)
class Intake:
    """Gradients and state of one call, before accumulation."""

    control: Control
    inputs: Inputs
    state: State
    clock: Clock

    @cached_property
    def inverse(self) -> Array | None:
        """The factor that undoes the loss scale; None without a loss scale."""
        return self.control.unscale(self.state, self.clock)

    def whole(self, extra: Mapping[str, Any]) -> Incoming:
        """Take in the gradients of a call without accumulation.

        Their norm is checked later, where a clip may need it too.
        """
        loss = self.control.check_loss(self.state, extra, jnp.ones((), bool))
        weight_of(extra)  # refuses an illegal weight; a mean of one does not need it
        arrival = Arrival(
            checks=() if loss is None else (loss,),
            bad=None if loss is None else loss.bad,
        )
        return Incoming(self.inputs, self.inverse, arrival)

    def partial_window(
        self, accumulators: list[Any], *, find_present: bool
    ) -> Incoming:
        """Take the sums of a window that is not full as if it were full.

        With `find_present` the leaves that had a gradient are derived from the
        accumulators.
        """
        state, accumulation = self.state, self.control.accumulation
        assert accumulation is not None
        assert state.micro_step is not None and state.weight is not None
        present = None
        if find_present:
            present = [
                jnp.zeros((), bool)
                if leaf.grad is None
                else _is_present(leaf.grad, leaf.like)
                for leaf in self.inputs.leaves
            ]
        return Incoming(
            self.inputs,
            accumulation.scale(state.weight, self.clock),
            Arrival(
                is_due=state.micro_step > 0,
                micro_step=state.micro_step,
                weight=state.weight,
                brought_gradients=False,
            ),
            accumulators,
            present,
        )

    def accumulated(self, extra: Mapping[str, Any], norm: Array | None) -> Incoming:
        """Add gradients to their window, unless they are bad.

        Args:
          extra: the extra arguments of the call, such as `weight` and `loss`.
          norm: the norm of the unscaled gradients; None: the norm is not checked here.
        """
        control, state = self.control, self.state
        accumulation, guard = control.accumulation, control.effective_guard
        assert accumulation is not None
        assert state.micro_step is not None and state.weight is not None
        weight = weight_of(extra)
        # The gradient of a batch of padding alone is mostly a mean over nothing, NaN.
        counts = jnp.ones((), bool) if weight is None else weight > 0
        checks = self._checks(extra, norm, counts)

        bad = None
        for check in checks:
            bad = check.bad if bad is None else bad | check.bad
        keep = None if bad is None else ~bad
        share = jnp.ones((), jnp.float32)
        if weight is not None:
            wrong = ~(jnp.isfinite(weight) & (weight >= 0))
            bad = wrong if bad is None else bad | wrong
            keep = ~bad & counts
            share = weight
        if keep is not None:
            share = jnp.where(keep, share, 0)

        first = state.micro_step == 0
        before = jnp.where(first, 0, state.weight)
        total = before + share
        if guard is not None and not guard.drops:
            aborted = before < 0 if bad is None else (before < 0) | bad
            total = jnp.where(aborted, ABORTED, total)
        micro_step = saturating_increment(state.micro_step)
        if guard is not None and guard.waits and bad is not None:
            micro_step = jnp.where(bad, state.micro_step, micro_step)
        sums = self._sums(first, keep, weight)
        gradients = [
            None if leaf.grad is None else total_of
            for leaf, total_of in zip(self.inputs.leaves, sums, strict=True)
        ]
        return Incoming(
            self.inputs.with_gradients(gradients),
            accumulation.scale(total, self.clock),
            Arrival(
                is_due=micro_step >= accumulation.due(self.clock),
                micro_step=micro_step,
                weight=total,
                checks=tuple(checks),
                bad=bad,
                dropped=None if keep is None else ~keep,
            ),
            sums,
        )

    def _checks(
        self, extra: Mapping[str, Any], norm: Array | None, counts: Array
    ) -> list[Check]:
        loss = self.control.check_loss(self.state, extra, counts)
        checks = [] if loss is None else [loss]
        if norm is not None:
            most = self.inputs.largest_norm
            checks.append(self.control.check_norm(self.state, norm, counts, most))
        return checks

    def _sums(
        self, first: Array, keep: Array | None, weight: Array | None
    ) -> list[Any]:
        """Return the accumulators with the gradients of this call added."""
        assert self.control.accumulation is not None
        store = self.control.accumulation.store
        factor = self.inverse
        if weight is not None:
            wide = weight.astype(self.clock.dtype)
            factor = wide if factor is None else wide * factor
        leaves, inputs = self.inputs.plan.leaves, self.inputs
        old = match_leaves(self.state.accumulator, leaves, "state.accumulator")
        sums = []
        for i, (leaf, total) in enumerate(zip(inputs.leaves, old, strict=True)):
            if leaf.grad is None:
                # The sum of an earlier window must not reach a later gradient.
                empty = jax.tree.map(lambda x: jnp.where(first, _emptied(x), x), total)
                sums.append(empty)
                continue
            store.check(leaves.paths[i], total, leaf.like)
            by = None if factor is None else factor.astype(inputs.dtypes[i])
            added = accumulate_leaf(store, total, leaf.grad, leaf.like, first, keep, by)
            if inputs.layouts is not None:
                added = kept_away(store, added, leaf.like, inputs.layouts[i])
            sums.append(added)
        return sums


def _emptied(buffer: Array) -> Array:
    """Return negative zeros, which mark an accumulator without a gradient.

    A sum of gradients is never -0.0, because it begins at +0.0.
    """
    return -jnp.zeros_like(buffer)


def _is_present(buffer: Any, like: Any) -> Array:
    """Return whether a gradient was added to an accumulator since it was emptied."""
    reals = as_reals(buffer, compute_dtype(like.dtype))
    # The bits of -0.0 are those of the smallest integer. This is one reduction of an
    # elementwise expression; a comparison of each element would first be materialized
    # as an array of bools, and a reciprocal would be an infinity for `jax_debug_infs`.
    kind = jnp.int64 if reals.dtype == jnp.float64 else jnp.int32
    least = jnp.iinfo(kind).min
    bits = jax.lax.bitcast_convert_type(reals, kind)
    return jnp.max(bits, initial=least) != least
