"""Everything that decides whether a gradient becomes a step, in one record."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from optadamw.base.hyperparameters import Clock, Dynamic
from optadamw.base.types import Array
from optadamw.control.accumulation import Accumulation
from optadamw.control.events import no_events
from optadamw.control.guard import Guard
from optadamw.control.loss_scale import DynamicLossScale, StaticLossScale
from optadamw.control.spikes import Spikes
from optadamw.control.statistics import Statistics
from optadamw.store.state import State


@dataclass(frozen=True)
class Control:
    """The parts around the rules; None is a part that was not asked for."""

    loss_scale: StaticLossScale | DynamicLossScale | None = None
    guard: Guard | None = None
    spikes: Spikes | None = None
    accumulation: Accumulation | None = None
    statistics: Statistics | None = None

    @property
    def is_idle(self) -> bool:
        """Whether every call is a step, as if there were no control."""
        return self == Control()

    @property
    def watch(self) -> Guard | None:
        """The guard; a dynamic loss scale cannot do without one."""
        if self.guard is None and isinstance(self.loss_scale, DynamicLossScale):
            return Guard()
        return self.guard

    @property
    def is_gated(self) -> bool:
        """Whether a call may leave everything as it is."""
        return self.watch is not None or self.accumulation is not None

    @property
    def is_traced(self) -> bool:
        held = [
            getattr(self.loss_scale, "scale", None),
            getattr(self.spikes, "sigmas", None),
            getattr(self.accumulation, "every", None),
            getattr(self.guard, "max_consecutive", None),
        ]
        return any(isinstance(value, Dynamic) and value.is_traced for value in held)

    def small(self) -> dict[str, Any]:
        """The fields of `State` that are not trees, as they are before the start."""
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
        """What undoes the loss scale in the gradients."""
        if self.loss_scale is None:
            return None
        assert state.loss_scale is not None
        return 1 / state.loss_scale.astype(clock.dtype)
