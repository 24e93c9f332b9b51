"""Everything that decides whether a gradient becomes a step, in one record.

A wrapper such as `skip_nonfinite` sets one part of a `Control`, so the order in which
wrappers are nested does not matter, and the order within a step is always this one:
unscale, check, accumulate, step, count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from optadamw.base.hyperparameters import Clock, Constant, Dynamic, real_scalar
from optadamw.base.numerics import saturating_increment
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
    """What is known of the gradients of one call before a step is decided on."""

    is_due: Array | None = None
    """Whether the window of accumulation is full; None: every call is a step."""
    micro_step: Array | None = None
    weight: Array | None = None
    """Sum of the weights in the window, this call's among them."""
    checks: tuple[Check, ...] = ()
    """The checks of the gradients that came in with this call."""
    bad: Array | None = None
    """Whether one of the checks failed; None: nothing was checked."""
    dropped: Array | None = None
    """Whether the gradients of this call were left out of their window."""
    brought_gradients: bool = True
    """False for a flush, which brings none."""


@dataclass(frozen=True)
class Control:
    """The parts around the rules; None is a part that was not asked for."""

    loss_scale: StaticLossScale | DynamicLossScale | None = None
    guard: Guard | None = None
    spikes: Spikes | None = None
    accumulation: Accumulation | None = None
    statistics: Statistics | None = None

    @property
    def effective_guard(self) -> Guard | None:
        """The guard, which a dynamic loss scale brings if none was asked for."""
        if self.guard is None and isinstance(self.loss_scale, DynamicLossScale):
            return Guard()
        return self.guard

    @property
    def is_gated(self) -> bool:
        """Whether a call may leave parameters and buffers as they are."""
        return self.effective_guard is not None or self.accumulation is not None

    @property
    def is_traced(self) -> bool:
        """Whether a number of one of the parts is a tracer."""
        held = [
            getattr(self.loss_scale, "scale", None),
            getattr(self.spikes, "sigmas", None),
            getattr(self.accumulation, "every", None),
            getattr(self.guard, "max_consecutive", None),
        ]
        return any(isinstance(value, Dynamic) and value.is_traced for value in held)

    def initial_scalars(self) -> dict[str, Any]:
        """The fields of `State` that are not trees, before the first step."""
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
        """The factor that undoes the loss scale in the gradients; None: there is none.

        A reciprocal: gradients are multiplied by it, in float32 or wider.
        """
        if self.loss_scale is None:
            return None
        assert state.loss_scale is not None
        return 1 / state.loss_scale.astype(clock.dtype)

    def check_norm(
        self, state: State, norm: Array, is_known: Array, most: float
    ) -> Check:
        """Check the global norm of gradients, of which at most `most` is finite."""
        return check_signal(self.spikes, state, "grad_norm", norm, is_known, most)

    def check_loss(self, state: State, extra: Mapping[str, Any]) -> Check | None:
        """Check the loss, if a guard is there and the loss was passed.

        Raises:
          ValueError: `skip_spikes` watches the loss, and it was not passed.
        """
        is_watched = self.spikes is not None and "loss" in self.spikes.of
        loss = extra.get("loss")
        if self.effective_guard is None or (loss is None and not is_watched):
            return None
        if loss is None:
            raise ValueError(
                "`loss` is missing, and skip_spikes watches it. Pass the loss of these "
                "gradients: tx.step(grads, state, params, loss=loss)."
            )
        value = real_scalar("loss", loss)
        return check_signal(self.spikes, state, "loss", value, jnp.ones((), bool))

    def next_scalars(
        self,
        state: State,
        arrival: Arrival,
        checks: Sequence[Check],
        go: Array,
        clipped: Array | None,
    ) -> dict[str, Any]:
        """The fields of the next `State` that are not trees, but for its statistics.

        Args:
          state: the state before this call.
          arrival: the gradients of this call.
          checks: those of the arrival, and those made at the step.
          go: whether the step was taken.
          clipped: whether a clip changed the gradients, if that is recorded.
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
        # A step that was due and not taken is bad, whatever refused it: the norm of an
        # accumulated sum, or a rate, and not only a gradient.
        bad = bad | (wanted & ~go)
        seen: dict[str, Array] = {}
        if self.spikes is not None:
            fields["history"], seen = next_history(self.spikes, state, list(checks))
        if state.events is not None:
            changes = {"nonfinite": nonfinite, "spikes": spike, "skipped": due & ~go}
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
        """The counter of consecutive bad gradients, and whether it is at its limit."""
        guard = self.effective_guard
        by_gradient = self.accumulation is not None and (guard is None or guard.drops)
        good = self._good_gradient(arrival, bad) if by_gradient else go
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
            # The number that the transformation has now, which differs from that in
            # the state once optax.inject_hyperparams changed it: it counts for the next
            # loss. The gradients of this call were divided by the one in the state.
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
    found = jnp.zeros((), bool)
    for flag in flags:
        found = found | flag
    return found
