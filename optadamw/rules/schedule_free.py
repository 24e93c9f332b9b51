"""Schedule-free steps (Defazio et al., arXiv 2405.15682, Algorithm 1).

    z_t = z_{t-1} - a u_t                      u_t: the direction, with the decay, at y
    x_t = (1 - c_t) x_{t-1} + c_t z_t          the average, for evaluation
    y_t = (1 - b1) z_t + b1 x_t                the parameters, at which gradients are

The weight c_t is w_t / (w_1 + ... + w_t), with w_t = t^step_power (a_t / a)^power.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import misplaced
from optadamw.base.held import Held
from optadamw.base.hyperparameters import Clock, Hyperparameter, Scheduled
from optadamw.base.means import running_mean
from optadamw.base.types import Array
from optadamw.rules.leaf import Leaf
from optadamw.rules.rule import Rule, Scalar, Shared, Stage
from optadamw.store.dense import Dense
from optadamw.store.slot import Slot


@dataclass(frozen=True)
class ScheduleFree(Rule):
    """Step from z, average z in x, and put the parameters between the two."""

    b1: Hyperparameter
    warmup_steps: int
    weight_power: float
    step_power: float
    z: Dense
    ema: Dense

    stage: ClassVar[Stage] = Stage.RATE
    needs_params: ClassVar[bool] = True
    once: ClassVar[bool] = True
    verb: ClassVar[str] = "schedule_free"

    @property
    def slots(self) -> tuple[Slot, ...]:
        return Slot("z", self.z, start="param"), Slot("ema", self.ema, start="param")

    def placed(self, before: tuple[Rule, ...], after: tuple[Rule, ...]) -> None:
        del after
        if not before or before[-1].verb != "scale_by_learning_rate":
            raise misplaced(
                f"{self.verb} takes the step of its chain, and no "
                "scale_by_learning_rate stands right before it.",
                f"Write chain(..., scale_by_learning_rate(...), {self.verb}()).",
            )
        if any("mu" in (slot.name for slot in rule.slots) for rule in before):
            raise misplaced(
                f"The average of {self.verb} stands in the place of a first moment, "
                "and a part before it keeps one too.",
                "Use scale_by_second_moment(...).",
            )
        rate = getattr(before[-1], "learning_rate", None)
        schedule = rate.schedule if isinstance(rate, Held) else rate
        if isinstance(schedule, Scheduled):
            raise misplaced(
                f"{self.verb} weights its average for a constant learning rate after a "
                f"linear warm-up, and the rate is {rate!r}.",
                "Give the peak as a number, and the warm-up as warmup_steps=.",
            )

    def scalars(self, clock: Clock, shared: Shared) -> dict[str, Scalar]:
        del shared
        b1, take = self.b1.at(clock), self._weight(clock)
        return {
            "b1": b1,
            "one_minus_b1": 1.0 - b1,
            "keep": 1 - take,
            "take": take,
            "warmup": self._warmup(clock),
        }

    def _warmup(self, clock: Clock) -> Scalar:
        """Return the share of the learning rate in this step, as in schedule_free."""
        if not self.warmup_steps:
            return 1.0
        return jnp.minimum(clock.time / self.warmup_steps, 1)

    def _weight(self, clock: Clock) -> Array:
        """Return c_t, from the number of the step alone.

        A sum of weights in the state would stand still: in float32 after 1.7e7 steps,
        in bfloat16 after 256.
        """
        if self.step_power:
            return self._weight_by_step(clock)
        last = self.warmup_steps
        weights = (np.arange(1, last + 1) / max(last, 1)) ** self.weight_power
        sums = np.cumsum(weights)
        done = float(sums[-1]) if last else 0.0
        after = 1 / (done + jnp.maximum(clock.time - last, 0))
        if not last:
            return after
        # High powers underflow: the first weight that does not is the whole sum.
        shares = np.divide(weights, sums, out=np.ones_like(sums), where=sums > 0)
        early = jnp.asarray(shares, clock.dtype)[jnp.minimum(clock.number, last) - 1]
        return jnp.where(clock.number <= last, early, after)

    def _weight_by_step(self, clock: Clock) -> Array:
        """Return c_t where the number of the step to a power is a part of the weight.

        The first steps are a table. After it, t^-r (1^r + ... + t^r) is the series of
        Euler and Maclaurin; at 16 r the first term that is left out is below 1e-11.
        """
        r = self.step_power
        last = max(self.warmup_steps, 16 * math.ceil(r) + 16)
        steps = np.arange(1, last + 1) / last
        warm = np.minimum(steps * last / max(self.warmup_steps, 1), 1)
        # High powers of small numbers underflow, so the sums are those of logarithms.
        weights = self.weight_power * np.log(warm) + r * np.log(steps)
        sums = np.logaddexp.accumulate(weights)
        shares = np.exp(weights - sums)

        def series(t: Any) -> Any:
            powers = r / (12 * t) - r * (r - 1) * (r - 2) / (720 * t**3)
            return t / (r + 1) + 0.5 + powers

        rest = float(np.exp(sums[-1])) - series(float(last))
        time = jnp.maximum(clock.time, last)
        after = 1 / (series(time) + rest * (last / time) ** r)
        early = jnp.asarray(shares, clock.dtype)[jnp.minimum(clock.number, last) - 1]
        return jnp.where(clock.number <= last, early, after)

    def apply(self, leaf: Leaf, scalars: Mapping[str, Array]) -> Leaf:
        assert leaf.param is not None
        warm, drift = scalars["warmup"], leaf.drift
        moved = leaf._replace(
            numerator=leaf.numerator * warm,
            drift=None if drift is None else drift * warm,
        )
        z = leaf.buffers["z"] + moved.value()
        keep, take = scalars["keep"], scalars["take"]
        x = running_mean(leaf.buffers["ema"], z, keep, take, "either")
        y = scalars["one_minus_b1"] * z + scalars["b1"] * x
        leaf = moved._replace(numerator=y - leaf.param, denominator=None, drift=None)
        return leaf.keeping(z=z, ema=x)
