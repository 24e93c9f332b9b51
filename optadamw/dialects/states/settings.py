"""Read from a transformation the facts that other libraries keep in their states."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from optadamw.base.hyperparameters import (
    Clock,
    Constant,
    Dynamic,
    Held,
    Hyperparameter,
    Scheduled,
)
from optadamw.base.tree import Leaves
from optadamw.rules.adam import Direction, Moments
from optadamw.rules.amsgrad import Maximum
from optadamw.rules.caution import Caution
from optadamw.rules.clip_update import ClipUpdate
from optadamw.rules.decay import Decay
from optadamw.rules.maximize import Maximize
from optadamw.rules.rate import Rate
from optadamw.rules.rule import Rule
from optadamw.rules.schedule_free import ScheduleFree
from optadamw.rules.slow_moment import SlowMoment
from optadamw.transforms.transformation import Transformation
from optadamw.walk.plan import plan_of

Betas = tuple[float, float]


class Settings(NamedTuple):
    """The numbers and options with which one parameter is updated."""

    learning_rate: float | None = None
    b1: float | None = None
    b2: float | None = None
    eps: float | None = None
    weight_decay: float | None = 0.0
    amsgrad: bool = False
    maximize: bool = False
    caution: bool = False
    nesterov: bool | str = False
    decay_mode: str = "lr"
    peak: float | None = None
    """The largest learning rate, if the decay mode takes one."""
    update_limit: float | None = None
    """The limit of the clip of the update; None: there is none."""
    peculiar: tuple[str, ...] = ()
    """Options that no library with groups like PyTorch's can express."""

    def beyond(self, follows: Collection[str]) -> list[str]:
        """Return the options that a library cannot express, which knows `follows`."""
        own = {
            "caution": "caution=True" if self.caution else "",
            "nesterov": f"nesterov={self.nesterov!r}" if self.nesterov else "",
            "update_limit": "" if self.update_limit is None else "clip_update_rms",
        }
        if self.decay_mode != "lr" and self.weight_decay:
            own[self.decay_mode] = f"weight_decay_mode={self.decay_mode!r}"
        if self.nesterov and self.nesterov != "current":
            follows = [name for name in follows if name != "nesterov"]
        return [text for k, text in own.items() if text and k not in follows] + [
            *self.peculiar
        ]


def settings_of(tx: Transformation, leaves: Leaves, clock: Clock) -> list[Settings]:
    """Return for each leaf the settings of the step at this time."""

    def number(value: Hyperparameter) -> float:
        return _number(value, clock)

    return [_settings(rules, number) for rules in rules_by_leaf(tx, leaves)]


def constants_of(tx: Transformation, leaves: Leaves) -> list[Settings]:
    """Return for each leaf the settings, with None for a number that may change.

    These are the values of schedules, and those of arrays inside a trace.
    """
    return [_settings(rules, _constant) for rules in rules_by_leaf(tx, leaves)]


def betas_of(tx: Transformation, leaves: Leaves, clock: Clock) -> dict[str, Betas]:
    """Return b1 and b2 of each trained parameter in the step at this time."""
    found = {}
    for path, rules in trained(tx, leaves):
        for rule in rules:
            if isinstance(rule, Moments):
                found[path] = _number(rule.b1, clock), _number(rule.b2, clock)
    return found


def learning_rate_of(
    tx: Transformation | None, leaves: Leaves, clock: Clock, title: str
) -> Hyperparameter | None:
    """Return the learning rate of `tx`, as it was given; None if `tx` has none.

    Raises:
      ValueError: parameters have different rates, and the library `title` has one.
    """
    rates = [
        (path, rule.learning_rate)
        for path, rules in (() if tx is None else trained(tx, leaves))
        for rule in rules
        if isinstance(rule, Rate)
    ]
    for path, rate in rates[1:]:
        first, one = rates[0]
        if isinstance(one, Scheduled) != isinstance(rate, Scheduled) or (
            _in_float32(one, clock) != _in_float32(rate, clock)
        ):
            raise ValueError(
                f"`tx` has the learning rate {_number(one, clock):g} for '{first}' and "
                f"{_number(rate, clock):g} for '{path}' in the next step, and {title} "
                "has one rate for all. Say which with learning_rate=."
            )
    return rates[0][1] if rates else None


def trained(tx: Transformation, leaves: Leaves) -> Iterator[tuple[str, list[Rule]]]:
    """Yield the path and the rules of each parameter that is not frozen."""
    for path, rules, is_frozen in zip(
        leaves.paths, rules_by_leaf(tx, leaves), frozen_leaves(tx, leaves), strict=True
    ):
        if not is_frozen:
            yield path, rules


def _settings(
    rules: Sequence[Rule], number: Callable[[Hyperparameter], float | None]
) -> Settings:
    found: dict[str, Any] = {}
    peculiar: list[str] = []
    for rule in rules:
        match rule:
            case Rate():
                found["learning_rate"] = number(rule.learning_rate)
            case Moments():
                found["b1"] = number(rule.b1)
                found["b2"] = number(rule.b2)
                if rule.bias_correction is not True:
                    peculiar.append(f"bias_correction={rule.bias_correction!r}")
            case Direction():
                found["eps"] = number(rule.eps)
                if number(rule.eps_root):
                    peculiar.append("eps_root")
                if rule.eps_mode != "outside":
                    peculiar.append(f"eps_mode={rule.eps_mode!r}")
                found["nesterov"] = rule.nesterov
            case Decay():
                found["weight_decay"] = number(rule.weight_decay)
                found["decay_mode"] = rule.mode
                if rule.cautious:
                    peculiar.append("cautious_weight_decay=True")
                if rule.max_learning_rate is not None:
                    found["peak"] = number(rule.max_learning_rate)
            case Maximum():
                found["amsgrad"] = True
            case Maximize():
                found["maximize"] = True
            case Caution():
                found["caution"] = True
            case ScheduleFree():
                peculiar.append("schedule_free")
            case SlowMoment():
                peculiar.append("b3")
            case ClipUpdate():
                found["update_limit"] = number(rule.limit)
                if not rule.keeps_decay and found.get("weight_decay"):
                    peculiar.append("clip_update_rms without clip_update_keeps_decay")
            case _:
                pass
    return Settings(**found, peculiar=tuple(peculiar))


def _number(value: Hyperparameter, clock: Clock) -> float:
    found = value.at(clock)
    return found if isinstance(found, float) else float(jax.device_get(found))


def _in_float32(value: Hyperparameter, clock: Clock) -> np.float32:
    return np.float32(_number(value, clock))


def _constant(value: Hyperparameter) -> float | None:
    if isinstance(value, Constant):
        return value.value
    if isinstance(value, Held) and value.schedule is None:
        return value.value * value.factor
    if isinstance(value, Dynamic) and not value.is_traced:
        return float(jax.device_get(value.value))
    return None


def kind_of_maximum(tx: Transformation) -> Any:
    """Return the kind of AMSGrad's maximum in `tx`; None if it takes none.

    Raises:
      ValueError: the groups of `tx` take different kinds.
    """
    variants = tx.recipe.composition.variants
    kinds = {r.kind for rules in variants for r in rules if isinstance(r, Maximum)}
    if len(kinds) > 1:
        raise ValueError(
            "Some groups of `tx` have amsgrad='raw' and others 'corrected'; other "
            "libraries have one of them. Give all groups the same."
        )
    return next(iter(kinds), None)


def has_maximum(tx: Transformation, leaves: Leaves) -> list[bool]:
    """Return for each leaf whether its group takes AMSGrad's maximum."""
    rows = rules_by_leaf(tx, leaves)
    return [any(isinstance(rule, Maximum) for rule in rules) for rules in rows]


def negations(tx: Transformation, leaves: Leaves) -> list[bool]:
    """Return for each leaf whether `tx` negates its gradients (maximize)."""
    variants = tx.recipe.composition.variants
    if not any(isinstance(rule, Maximize) for rules in variants for rule in rules):
        return [False] * len(leaves.paths)
    rows = rules_by_leaf(tx, leaves)
    return [any(isinstance(rule, Maximize) for rule in rules) for rules in rows]


def frozen_leaves(tx: Transformation, leaves: Leaves) -> list[bool]:
    """Return for each leaf whether `tx` leaves it as it is and keeps nothing for it."""
    shapes = leaves.treedef.unflatten(leaves.arrays)
    plan = plan_of(tx.recipe.composition, leaves, shapes)
    return [plan.is_frozen(i) for i in range(len(plan.rows))]


def rules_by_leaf(tx: Transformation, leaves: Leaves) -> list[list[Rule]]:
    """Return for each leaf the rules of its group that apply to it."""
    composition = tx.recipe.composition
    shapes = leaves.treedef.unflatten(leaves.arrays)
    rows = plan_of(composition, leaves, shapes).rows
    return [row.chosen(composition.variants[row.group]) for row in rows]
