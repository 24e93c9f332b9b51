"""A rule: a pure function on the arrays of one parameter, and the scalars it needs.

A rule is a frozen record of hyperparameters with one pure function, `apply`. It knows
nothing of trees, dtypes, sharding or frameworks: the walk passes real arrays in the
dtype of computation. Numbers that all parameters share (a bias correction, a learning
rate) are scalars, which `scalars` computes once per step. A rule that needs the norm of
all gradients sets `reads_norm` and computes further scalars in `norm_scalars`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any, ClassVar, Self

from optadamw.base.hyperparameters import Clock, Constant, Dynamic, Held, Scheduled
from optadamw.base.masks import Selector
from optadamw.base.types import Array
from optadamw.rules.check_scalars import check_scalars
from optadamw.rules.leaf import Leaf, Overwrite
from optadamw.store.slot import Slot

Scalar = float | Array
"""A Python number, computed in host doubles, or a 0-d array."""

Forms = Mapping[str, Callable[[Any], str]]
"""For hyperparameters, by field, the function that returns the form of one."""


class Stage(IntEnum):
    """The place of a rule in a step; along a chain the stages must not decrease.

    Attributes:
      GRADIENT: changes the gradient, as a clip does.
      MOMENTS: computes moments of the gradient, as Adam does.
      MAXIMUM: replaces the second moment by its maximum, as AMSGrad does.
      DIRECTION: divides the first moment by the root of the second one.
      CAUTION: changes the direction, as `cautious` does.
      DECAY: adds decoupled weight decay.
      RATE: multiplies the direction by minus the learning rate.
      COMMITTED: reads the parameter after it was written, as `ema_params` does.
    """

    GRADIENT = 0
    MOMENTS = 1
    MAXIMUM = 2
    DIRECTION = 3
    CAUTION = 4
    DECAY = 5
    RATE = 6
    COMMITTED = 7


@dataclass(frozen=True)
class Rule:
    """The base class of all rules; its defaults leave a parameter unchanged.

    Attributes:
      stage: the place of the rule in a step; a rule must set it.
      publishes: scalars that other rules may read as `shared(name)`; default: none.
      once: whether a chain may hold only one such rule; default: False.
      needs_params: whether `apply` or `after_commit` reads the parameter; default:
        False. `update` without parameters is then refused.
      reads_norm: whether `norm_scalars` gets the norm of all updates so far; default:
        False.
      sums: whether `apply` reduces a whole parameter, as a norm does; default: False.
        Such a rule cannot run on a part of a parameter, as Pallas kernels do.
      sums_by_reductions: whether all these sums are taken by `leaf.reductions`, or do
        not depend on their order, as a maximum; default: False.
        `with_reproducible_norms` refuses a rule of which only `sums` is set.
      shrinks: whether `apply` makes no element of the update larger; default: False.
      keeps_norm: whether `apply` leaves the norm of the update unchanged; default:
        False.
      forms: the hyperparameters of which `apply` knows more than an array, by field,
        each with the function that says it; default: none. `mean_form` chooses how a
        running mean with this weight is computed, and `floor_form` says whether a
        denominator with this epsilon can count as 0.
    """

    stage: ClassVar[Stage]
    publishes: ClassVar[tuple[str, ...]] = ()
    once: ClassVar[bool] = False
    needs_params: ClassVar[bool] = False
    reads_norm: ClassVar[bool] = False
    sums: ClassVar[bool] = False
    sums_by_reductions: ClassVar[bool] = False
    shrinks: ClassVar[bool] = False
    keeps_norm: ClassVar[bool] = False
    forms: ClassVar[Forms] = MappingProxyType({})

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The buffers that the rule keeps between steps; default: none.

        `leaf.buffers[name]` reads a buffer as real numbers, whatever its form, and
        `leaf.keeping(name=value)` writes it.
        """
        return ()

    @property
    def selector(self) -> Selector | None:
        """The choice of parameters to which the rule applies; None (default): all."""
        return None

    @property
    def verb(self) -> str:
        """The name of the rule in messages and in `describe`; default: its class."""
        return type(self).__name__

    @property
    def latest(self) -> Stage:
        """The latest stage that a rule before this one may have; default: `stage`."""
        return self.stage

    def placed(self, before: "tuple[Rule, ...]", after: "tuple[Rule, ...]") -> None:
        """Raise if the rule cannot stand between these rules; default: never."""
        del before, after

    def scalars(self, clock: Clock, shared: "Shared") -> dict[str, Scalar]:
        """Return the real scalars of this step by name, computed once for all leaves.

        `apply` and `after_commit` get these scalars as arrays. `shared(name)` returns a
        scalar that another rule of the chain publishes.
        """
        del clock, shared
        return {}

    def norm_scalars(
        self, norm: Array, scalars: Mapping[str, Scalar]
    ) -> dict[str, Scalar]:
        """Return the scalars that depend on the global norm, if `reads_norm`."""
        del norm, scalars
        return {}

    def norm_after(self, norm: Array, scalars: Mapping[str, Scalar]) -> Array | None:
        """Return the norm after `apply`; None if it must be measured anew."""
        del scalars
        return norm if self.keeps_norm else None

    def report(self, clock: Clock, shared: "Shared") -> dict[str, Scalar]:
        """Return the rates of this step, for `with_stats` and for the guard.

        Statistics record `learning_rate` and `weight_decay`; a guard refuses a step
        in which any of the rates is negative or not finite. Default: no rates.
        """
        del clock, shared
        return {}

    @property
    def watched(self) -> dict[str, Dynamic | Scheduled | Held]:
        """The hyperparameters whose values a guard checks at each step, by field.

        These are the arrays, schedules and adjustable numbers that have an interval of
        legal values. The value of another number was checked at construction.
        """
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            name: value
            for name, value in values.items()
            if isinstance(value, Dynamic | Scheduled | Held) and value.legal is not None
        }

    def leaf_scalars(
        self, leaf: Leaf, scalars: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Return scalars for `apply` that depend on all elements of one parameter.

        A norm is such a scalar. The leaf that this method gets is computed a second
        time, so that no array waits in memory for the scalars; it must change nothing.
        A rule that overrides it sets `sums`. Default: no scalars.
        """
        del leaf, scalars
        return {}

    @property
    def has_leaf_scalars(self) -> bool:
        """Whether the rule has a `leaf_scalars` of its own."""
        return type(self).leaf_scalars is not Rule.leaf_scalars

    def apply(self, leaf: Leaf, scalars: Mapping[str, Array]) -> Leaf:
        """Return the leaf after this rule; the default leaves it unchanged.

        It is called once per parameter and step, with the scalars of this step.
        """
        del scalars
        return leaf

    def after_commit(
        self, target: Array, leaf: Leaf, scalars: Mapping[str, Array]
    ) -> tuple[Leaf, Overwrite | None]:
        """Change buffers after the parameter was written, or write it once more.

        `target` is the parameter as it was written, after rounding. An `Overwrite`
        replaces the parameter; None leaves it unchanged.
        """
        del target, scalars
        return leaf, None

    @property
    def follows_commit(self) -> bool:
        """Whether the rule has an `after_commit` of its own."""
        return type(self).after_commit is not Rule.after_commit

    @property
    def is_traced(self) -> bool:
        """Whether a hyperparameter is a tracer."""
        values = (getattr(self, f.name) for f in dataclasses.fields(self))
        return any(isinstance(v, Dynamic) and v.is_traced for v in values)

    @property
    def held(self) -> "tuple[Held, ...]":
        """The hyperparameters that the state holds."""
        values = (getattr(self, f.name) for f in dataclasses.fields(self))
        return tuple(value for value in values if isinstance(value, Held))

    def skeleton(self) -> Self:
        """Return the rule with an Ellipsis in place of each hyperparameter.

        Leaf functions are compiled for a skeleton and take all numbers as arguments, so
        that one compiled leaf serves every learning rate. A hyperparameter in `forms`
        is replaced by its form, because the compiled leaf depends on it.
        """
        fields: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Constant | Dynamic | Scheduled | Held):
                form_of = self.forms.get(f.name)
                fields[f.name] = ... if form_of is None else form_of(value)
        return dataclasses.replace(self, **fields)


class Shared:
    """The scalars of the rules of one chain, each computed once, at its first use."""

    def __init__(self, rules: "tuple[Rule | None, ...]", clock: Clock):
        self._rules = rules
        self._clock = clock
        self._known: dict[int, dict[str, Scalar]] = {}

    def of(self, index: int) -> dict[str, Scalar]:
        """Return the scalars of the rule at this index of the chain."""
        if index not in self._known:
            rule = self._rules[index]
            known: dict[str, Scalar] = {}
            if rule is not None:
                found = rule.scalars(self._clock, self)
                known = dict(
                    check_scalars(f"{rule.verb}: scalars", found, rule.publishes)
                )
            self._known[index] = known
        return self._known[index]

    def has(self, name: str) -> bool:
        """Return whether a rule of the chain publishes this scalar."""
        return self._publisher(name) is not None

    def __call__(self, name: str) -> Scalar:
        index = self._publisher(name)
        if index is None:
            raise LookupError(f"no rule of this chain publishes `{name}`")
        return self.of(index)[name]

    def _publisher(self, name: str) -> int | None:
        for index, rule in enumerate(self._rules):
            if rule is not None and name in rule.publishes:
                return index
        return None
