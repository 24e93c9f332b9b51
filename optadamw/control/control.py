"""One record of everything that decides whether a gradient becomes a step.

A wrapper such as `skip_nonfinite` sets one part of a `Control`. Wrappers can therefore
be nested in any order; the order within a step is always: unscale, check, accumulate,
step, count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from optadamw.base.hyperparameters import Clock, Constant, Dynamic, real_scalar
from optadamw.base.numerics import at_least_float32, saturating_increment
from optadamw.base.types import Array
from optadamw.control.accumulation import Accumulation
from optadamw.control.counters import event, next_counters, no_events
from optadamw.control.guard import Guard
from optadamw.control.loss_scale import DynamicLossScale, StaticLossScale
from optadamw.control.signals import Check, check_signal, next_history
from optadamw.control.spikes import Spikes
from optadamw.control.statistics import Statistics
from optadamw.store.state import State


class Arrival(NamedTuple):
    """Facts about the gradients of one call, from which the step is decided."""

    is_due: Array | None = None
    """Whether the window of accumulation is full; None: every call is a step."""
    micro_step: Array | None = None
    """Gradients received in the window, including this call; None: no window."""
    weight: Array | None = None
    """Sum of the weights in the window, including this call; None: no window."""
    checks: tuple[Check, ...] = ()
    """The checks of this call's loss and gradient norm."""
    bad: Array | None = None
    """Whether one of the checks failed; None: nothing was checked."""
    dropped: Array | None = None
    """Whether the gradients of this call were left out; None: they cannot be."""
    brought_gradients: bool = True
    """Whether the call had gradients (default); a flush has none."""


@dataclass(frozen=True)
class Control:
    """The parts around the rules; a part that is None (default) is switched off."""

    loss_scale: StaticLossScale | DynamicLossScale | None = None
    guard: Guard | None = None
    spikes: Spikes | None = None
    accumulation: Accumulation | None = None
    statistics: Statistics | None = None

    @property
    def effective_guard(self) -> Guard | None:
        """The guard; a dynamic loss scale adds one if no wrapper did."""
        if self.guard is None and isinstance(self.loss_scale, DynamicLossScale):
            return Guard()
        return self.guard

    @property
    def is_gated(self) -> bool:
        """Whether a call may leave parameters and buffers unchanged."""
        return self.effective_guard is not None or self.accumulation is not None

    @property
    def is_traced(self) -> bool:
        """Whether a hyperparameter of one of the parts is a tracer."""
        numbers = [
            getattr(self.loss_scale, "scale", None),
            getattr(self.spikes, "sigmas", None),
            getattr(self.accumulation, "every", None),
            getattr(self.guard, "max_consecutive", None),
        ]
        return any(isinstance(value, Dynamic) and value.is_traced for value in numbers)

    def initial_scalars(self) -> dict[str, Any]:
        """Return the fields of the first `State`, except buffers of parameters."""
        fields: dict[str, Any] = {"step": np.zeros((), np.int32)}
        if self.accumulation is not None:
            fields["micro_step"] = np.zeros((), np.int32)
            fields["weight"] = np.zeros((), np.float32)
        if isinstance(self.loss_scale, DynamicLossScale):
            fields["loss_scale"] = np.asarray(self.loss_scale.initial, np.float32)
            fields["growth"] = np.zeros((), np.int32)
        elif self.loss_scale is not None:
            fields["loss_scale"] = self.loss_scale.initial()
        if self.is_gated or self.statistics is not None:
            fields["events"] = no_events()
        if self.spikes is not None:
            fields["history"] = self.spikes.empty()
        if self.statistics is not None:
            fields["stats"] = self.statistics.empty()
        return fields

    def unscale(self, state: State, clock: Clock) -> Array | None:
        """Return the reciprocal of the loss scale; None without a loss scale.

        The gradients are multiplied by this factor, in float32 or wider.
        """
        if self.loss_scale is None:
            return None
        assert state.loss_scale is not None
        return 1 / state.loss_scale.astype(clock.dtype)

    @property
    def needs_loss(self) -> bool:
        """Whether a call without the loss is refused."""
        return self.spikes is not None and "loss" in self.spikes.of

    def check_norm(
        self, state: State, norm: Array, is_known: Array, most: float
    ) -> Check:
        """Check a global norm of gradients; above `most` it counts as not finite."""
        return check_signal(self.spikes, state, "grad_norm", norm, is_known, most)

    def check_loss(
        self, state: State, extra: Mapping[str, Any], is_known: Array
    ) -> Check | None:
        """Check the loss, if it was passed and there is a guard; else return None.

        Args:
          state: the state before this call.
          extra: the extra arguments of the call.
          is_known: whether the loss counts; that of a micro-batch of weight 0 does not.

        Raises:
          ValueError: `skip_spikes` needs the loss, and it was not passed.
        """
        loss = extra.get("loss")
        if self.effective_guard is None or (loss is None and not self.needs_loss):
            return None
        if loss is None:
            raise ValueError(
                "`loss` is missing, and skip_spikes watches it. Pass the loss of these "
                "gradients: tx.step(grads, state, params, loss=loss)."
            )
        value = at_least_float32(real_scalar("loss", loss))
        return check_signal(self.spikes, state, "loss", value, is_known)

    def next_scalars(
        self,
        state: State,
        arrival: Arrival,
        checks: Sequence[Check],
        go: Array,
        legal: Array | None,
        clipped: Array | None,
    ) -> dict[str, Any]:
        """Return the fields of the next `State`, except buffers and statistics.

        Args:
          state: the state before this call.
          arrival: the gradients of this call.
          checks: the checks of the arrival and of the step.
          go: whether the step was taken.
          legal: whether the hyperparameters were legal; None: nobody checked them.
          clipped: whether a clip changed the gradients; None: clips are not counted.
        """
        nonfinite = _any(check.nonfinite for check in checks)
        spike = _any(check.spike for check in checks) & ~nonfinite
        bad = nonfinite | spike
        if arrival.bad is not None:
            bad = bad | arrival.bad
        fields: dict[str, Any] = {}
        due = wanted = jnp.ones((), bool)
        if self.accumulation is not None:
            assert arrival.is_due is not None
            assert arrival.micro_step is not None and arrival.weight is not None
            due = arrival.is_due
            wanted = due & (arrival.weight > 0)
            fields["micro_step"] = jnp.where(due, 0, arrival.micro_step)
            fields["weight"] = jnp.where(due, 0, arrival.weight)
        # A step that was due and not taken counts as bad, whatever the cause: a
        # gradient, the norm of an accumulated sum, or a learning rate.
        bad = bad | (wanted & ~go)
        seen: dict[str, Array] = {}
        if self.spikes is not None:
            fields["history"], seen = next_history(self.spikes, state, list(checks))
        if state.events is not None:
            changes = {"nonfinite": nonfinite, "spikes": spike, "skipped": due & ~go}
            if legal is not None:
                changes["illegal"] = wanted & ~legal
            if arrival.dropped is not None:
                changes["dropped"] = arrival.dropped
            if clipped is not None:
                changes["clipped"] = clipped & go
            run = self._bad_in_a_row(state.events, arrival, bad, go)
            fields["events"] = next_counters(state.events, changes, seen | run)
        return fields | self._next_loss_scale(state, arrival, nonfinite, bad, go)

    def _bad_in_a_row(
        self, events: Array, arrival: Arrival, bad: Array, go: Array
    ) -> dict[str, Array]:
        """Return the count of consecutive bad gradients, and if it is at its limit."""
        guard = self.effective_guard
        by_gradient = self.accumulation is not None and (guard is None or guard.drops)
        good = self._good_gradient(arrival, bad) if by_gradient else go
        if by_gradient and arrival.dropped is not None:
            good = good & ~arrival.dropped  # nobody knows how one of weight 0 was
        run = event(events, "consecutive")
        run = jnp.where(bad, saturating_increment(run), jnp.where(good, 0, run))
        if guard is None or guard.max_consecutive is None:
            return {"consecutive": run}
        given = guard.max_consecutive
        limit = int(given.value) if isinstance(given, Constant) else given.value
        limit = jnp.asarray(limit).astype(jnp.int32)
        return {"consecutive": run, "stalled": run >= limit}

    def _next_loss_scale(
        self, state: State, arrival: Arrival, nonfinite: Array, bad: Array, go: Array
    ) -> dict[str, Any]:
        if isinstance(self.loss_scale, StaticLossScale):
            # optax.inject_hyperparams may have changed the scale since the last call.
            # The new scale is for the next loss; the gradients of this call were
            # divided by the scale in the state.
            return {"loss_scale": self.loss_scale.initial()}
        if not isinstance(self.loss_scale, DynamicLossScale):
            return {}
        assert state.loss_scale is not None and state.growth is not None
        by_gradient = self.loss_scale.counts == "gradients"
        good = self._good_gradient(arrival, bad) if by_gradient else go
        scale, growth = self.loss_scale.after(
            state.loss_scale, state.growth, bad=nonfinite, good=good
        )
        return {"loss_scale": scale, "growth": growth}

    @staticmethod
    def _good_gradient(arrival: Arrival, bad: Array) -> Array:
        return ~bad if arrival.brought_gradients else jnp.zeros((), bool)


def _any(flags: Any) -> Array:
    result = jnp.zeros((), bool)
    for flag in flags:
        result = result | flag
    return result
