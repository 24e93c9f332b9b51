"""The learning rate of a transformation, as a loop reads it and sets it."""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import misplaced
from optadamw.base.held import Held
from optadamw.base.hyperparameters import (
    Clock,
    Constant,
    Dynamic,
    Hyperparameter,
    Scheduled,
)
from optadamw.rules.decay import Decay, DecayMode
from optadamw.rules.groups import Variant
from optadamw.rules.rate import Rate
from optadamw.transforms.transformation import Transformation, transformation


def rate_of(tx: Transformation) -> Hyperparameter:
    """Return the learning rate of the parameters that are in no group.

    Raises:
      ValueError: the chain has no learning rate.
    """
    rules = tx.recipe.composition.variants[-1]
    rates = [rule.learning_rate for rule in rules if isinstance(rule, Rate)]
    if not rates:
        raise misplaced(
            f"{tx!r} has no learning rate, so it cannot update parameters by itself.",
            "Put scale_by_learning_rate into its chain.",
        )
    return rates[0]


def plain_rate(tx: Transformation) -> float | None:
    """Return the learning rate if it is a number; None if it is a schedule."""
    return _number(rate_of(tx))


def adjustable_rate(tx: Transformation) -> Held | None:
    """Return the learning rate if the state holds it and no schedule multiplies it."""
    rate = rate_of(tx)
    return rate if isinstance(rate, Held) and rate.schedule is None else None


def with_rate(tx: Transformation, rate: Any) -> Transformation:
    """Put another learning rate, which may be traced, in place of a plain number.

    The rates of groups are multiplied by the new rate over the number, which is exactly
    1 if they are equal in float32. They stay as they are if the number is 0, or so
    small that a machine takes it for 0. The weight decay of the modes "schedule" and
    "corrected" follows the rate over its first value, as it would follow a schedule.
    """
    first = plain_rate(tx)
    assert first is not None
    composition = tx.recipe.composition
    base = np.float32(first)
    factor = None
    if base >= _TINY:
        factor = Dynamic(jnp.where(rate == base, jnp.float32(1), rate / base))

    def changed(rules: Variant) -> Variant:
        own = next(rule.learning_rate for rule in rules if isinstance(rule, Rate))
        new: Hyperparameter
        if _number(own) == first:
            new = Dynamic(rate)
        else:
            new = own if factor is None else _times(own, factor)
        return tuple(_changed(rule, own, new) for rule in rules)

    groups = tuple(
        replace(group, rules=changed(group.rules)) for group in composition.groups
    )
    rules = tuple(rule for rule in changed(composition.rules) if rule is not None)
    return transformation(replace(composition, rules=rules, groups=groups))


_TINY = np.finfo(np.float32).tiny
"""The least number that XLA does not take for 0; below it, x / x is not 1."""


@dataclass(frozen=True, eq=False)
class _ScaledSchedule(Scheduled):
    """A schedule times a number."""

    factor: Dynamic = field(kw_only=True)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _ScaledSchedule):
            return False
        return super().__eq__(other) and self.factor == other.factor

    def __hash__(self) -> int:
        return hash((super().__hash__(), self.factor))

    def at(self, clock: Clock) -> Any:
        return super().at(clock) * self.factor.at(clock)


def _number(rate: Hyperparameter) -> float | None:
    if isinstance(rate, Constant):
        return rate.value
    if isinstance(rate, Dynamic) and not rate.is_traced:
        return float(jax.device_get(rate.value))
    return None


def _times(rate: Hyperparameter, factor: Dynamic) -> Hyperparameter:
    """Return a learning rate times a number that may be traced."""
    match rate:
        case Constant(value):
            return Dynamic(value * factor.value)
        case Dynamic(value):
            return replace(rate, value=value * factor.value)
        case _ScaledSchedule(factor=old):
            product = Dynamic(old.value * factor.value)
            return replace(rate, factor=product)
        case Scheduled(schedule, name, legal):
            return _ScaledSchedule(schedule, name, legal, factor=factor)
        case Held(schedule=None):
            return replace(rate, schedule=factor)
        case Held(schedule=Scheduled() | Dynamic() as schedule):
            return replace(rate, schedule=_times(schedule, factor))
    raise TypeError(f"{rate!r} is no learning rate.")


def _changed(rule: Any, own: Hyperparameter, new: Hyperparameter) -> Any:
    if isinstance(rule, Rate):
        return replace(rule, learning_rate=new)
    is_scaled = isinstance(rule, Decay) and rule.mode in _WITHOUT_PEAK
    if not is_scaled or rule.max_learning_rate is not None or new is own:
        return rule
    assert isinstance(own, Constant), own  # of others, Decay asks for the peak
    if np.float32(own.value) >= _TINY:
        return replace(rule, max_learning_rate=own)
    # A rate of 0 has no share of a peak; the share of a constant is 1.
    return replace(rule, mode=_WITHOUT_PEAK[rule.mode])


_WITHOUT_PEAK: dict[str, DecayMode] = {"schedule": "independent", "corrected": "lr"}
"""The modes of weight decay that see the learning rate over its peak, and the mode to
which each of them is equal if this share is 1."""
