"""The learning rate of a transformation, as a loop reads it and sets it."""

from dataclasses import replace
from typing import Any

import jax

from optadamw.base.errors import misplaced
from optadamw.base.held import Held
from optadamw.base.hyperparameters import Constant, Dynamic, Hyperparameter
from optadamw.rules.decay import Decay
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
    rate = rate_of(tx)
    if isinstance(rate, Constant):
        return rate.value
    if isinstance(rate, Dynamic) and not rate.is_traced:
        return float(jax.device_get(rate.value))
    return None


def adjustable_rate(tx: Transformation) -> Held | None:
    """Return the learning rate if the state holds it and no schedule multiplies it."""
    rate = rate_of(tx)
    return rate if isinstance(rate, Held) and rate.schedule is None else None


def with_rate(tx: Transformation, rate: Any) -> Transformation:
    """Put another learning rate, which may be traced, in place of a plain number.

    The rates of groups that are plain numbers change by the same factor. The weight
    decay of the modes "schedule" and "corrected" follows the rate over its first value,
    as it would follow a schedule.
    """
    first = plain_rate(tx)
    assert first is not None
    composition = tx.recipe.composition

    def changed(rules: Variant) -> Variant:
        return tuple(_changed(rule, rate, first) for rule in rules)

    groups = tuple(
        replace(group, rules=changed(group.rules)) for group in composition.groups
    )
    rules = tuple(rule for rule in changed(composition.rules) if rule is not None)
    return transformation(replace(composition, rules=rules, groups=groups))


def _changed(rule: Any, rate: Any, first: float) -> Any:
    if isinstance(rule, Rate) and isinstance(rule.learning_rate, Constant | Dynamic):
        own = rule.learning_rate.value
        if isinstance(own, float) and own != first:
            factor = own / first if first else 0.0
            return replace(rule, learning_rate=Dynamic(rate * factor))
        return replace(rule, learning_rate=Dynamic(rate))
    is_scaled = isinstance(rule, Decay) and rule.mode in ("schedule", "corrected")
    if is_scaled and rule.max_learning_rate is None and first > 0:
        return replace(rule, max_learning_rate=Constant(first))
    return rule
