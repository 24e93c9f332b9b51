"""The running average of the parameters (Polyak; Keras's `use_ema`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from optadamw.base.hyperparameters import Clock, Hyperparameter
from optadamw.base.means import mean_form, running_mean
from optadamw.base.numerics import one_minus_power
from optadamw.base.types import Array
from optadamw.rules.leaf import Leaf, Overwrite
from optadamw.rules.rule import Forms, Rule, Scalar, Shared, Stage
from optadamw.store.dense import Dense
from optadamw.store.slot import Slot

LEGAL = "'float32', 'float64', stochastic('bfloat16') or None"
"""The legal dtypes of an average, as errors print them."""


@dataclass(frozen=True)
class Average(Rule):
    """Move the average towards the committed parameter."""

    decay: Hyperparameter
    overwrite_every: Hyperparameter | None
    debias: bool
    warmup: bool
    ema: Dense

    stage: ClassVar[Stage] = Stage.COMMITTED
    needs_params: ClassVar[bool] = True
    forms: ClassVar[Forms] = {"decay": mean_form}
    verb: ClassVar[str] = "ema_params"

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (Slot("ema", self.ema, start="param"),)

    def scalars(self, clock: Clock, shared: Shared) -> dict[str, Scalar]:
        del shared
        decay, t = self.decay.at(clock), clock.time
        scalars: dict[str, Scalar] = {"keep": decay, "take": 1.0 - decay}
        if self.warmup:
            # Not 1 - keep, which is wrong by 1.7e-4 of itself at 0.9999 in float32.
            keep = jnp.minimum(decay, (1 + t) / (10 + t))
            take = jnp.maximum(scalars["take"], 9 / (10 + t))
            scalars = {"keep": keep, "take": take}
        if self.debias:
            # The buffer holds the corrected average itself: the new parameter has the
            # weight (1 - d) / (1 - d^t), which is 1 at t = 1, and 1 / t for d = 1.
            flat = jnp.asarray(decay == 1.0)
            weight = jnp.where(flat, 1, one_minus_power(decay, t))
            take = jnp.where(flat, 1 / t, scalars["take"] / weight)
            scalars = {"keep": 1 - take, "take": take}
        if self.overwrite_every is not None:
            every = jnp.asarray(self.overwrite_every.at(clock)).astype(jnp.int32)
            due = clock.number % jnp.maximum(every, 1) == 0
            scalars["overwrite"] = due & (every > 0)
        return scalars

    def after_commit(
        self, target: Array, leaf: Leaf, scalars: Mapping[str, Array]
    ) -> tuple[Leaf, Overwrite | None]:
        keep, take = scalars["keep"], scalars["take"]
        # Corrected for its start, the first average is the parameter: its weight is 0.
        form = "either" if self.debias else mean_form(self.decay)
        ema = running_mean(leaf.buffers["ema"], target, keep, take, form)
        leaf = leaf.keeping(ema=ema)
        if self.overwrite_every is None:
            return leaf, None
        return leaf, Overwrite(when=scalars["overwrite"] > 0, value=ema)
