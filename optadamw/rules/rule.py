"""A rule: what happens to one parameter, and the scalars it needs.

A rule is a frozen record of hyperparameters with one pure function, `apply`, on the
arrays of one parameter. It knows nothing of trees, dtypes, sharding or frameworks:
the walk hands it real arrays in the dtype of computation. What is the same for the
whole tree (a bias correction, a learning rate) is a scalar, computed once per step by
`scalars`; what needs the whole tree's gradient (its norm) is asked for with
`reads_norm`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, NamedTuple, Self

from optadamw.base.hyperparameters import Clock, Constant, Dynamic, Scheduled
from optadamw.base.masks import Selector
from optadamw.base.numerics import quotient
from optadamw.base.types import Array
from optadamw.rules.scalars import check_scalars
from optadamw.store.slot import Slot

Scalar = float | Array
"""A Python number (formed in host doubles) or a 0-d array of the computed dtype."""


class Stage(IntEnum):
    """Where in the order of a step a rule stands; a chain must not go back."""

    GRADIENT = 0
    MOMENTS = 1
    MAXIMUM = 2
    DIRECTION = 3
    CAUTION = 4
    DECAY = 5
    RATE = 6
    COMMITTED = 7


class Leaf(NamedTuple):
    """One parameter on its way through the rules.

    The update is `numerator / denominator + drift`. The quotient stays open until the
    end, so that the last operation on it is a division: a multiplication there would
    be contracted with the addition to the parameter (FMA) inside `step` and not
    across `update` and `apply_updates`, and the two would part by an ulp.
    """

    numerator: Array
    """The gradient at first, then the moments' numerator, then times the rate."""
    denominator: Array | None
    drift: Array | None
    """The part that no later rule scales: decoupled decay."""
    gradient: Array
    """The gradient as the moments saw it."""
    second: Array | None
    """The second moment that the direction will use."""
    second_is_corrected: bool
    param: Array | None
    """The parameter before the step."""
    buffers: Mapping[str, Array]
    is_bounded: bool = False
    """Whether a guard has refused what is not finite or has no finite square."""

    def value(self) -> Array:
        update = self.numerator
        if self.denominator is not None:
            update = quotient(update, self.denominator)
        return update if self.drift is None else update + self.drift

    def settled(self) -> Self:
        """The same leaf with the quotient carried out."""
        return self._replace(numerator=self.value(), denominator=None, drift=None)

    def keeping(self, **buffers: Array) -> Self:
        return self._replace(buffers={**self.buffers, **buffers})


class Overwrite(NamedTuple):
    """A value that replaces the committed parameter in the steps where `when` holds."""

    when: Array
    value: Array


@dataclass(frozen=True)
class Rule:
    """The base of all rules; a subclass overrides what it has."""

    stage: ClassVar[Stage]
    publishes: ClassVar[tuple[str, ...]] = ()
    """Scalars of this rule that other rules may look up; one publisher per chain."""
    once: ClassVar[bool] = False
    """Whether a second one in a chain would undo or repeat the first."""
    needs_params: ClassVar[bool] = False
    """Whether `apply` or `after_commit` reads the parameter, so that `update` without
    parameters is refused."""
    reads_norm: ClassVar[bool] = False
    """Whether `norm_scalars` gets the global norm of the updates so far."""
    sums: ClassVar[bool] = False
    """Whether `apply` needs all elements of a parameter at once: its norm, a mean."""
    shrinks: ClassVar[bool] = False
    """Whether no element of the update is larger after `apply` than before."""
    keeps_norm: ClassVar[bool] = False
    """Whether the update has the same norm after `apply` as before."""

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The buffers that the rule keeps between steps; the default is none.

        `leaf.buffers[name]` reads one as real numbers, whatever its form, and
        `leaf.keeping(name=value)` writes it.
        """
        return ()

    @property
    def selector(self) -> Selector | None:
        """Which parameters the rule applies to; None: all."""
        return None

    @property
    def verb(self) -> str:
        """How messages and `describe` call the rule."""
        return type(self).__name__

    @property
    def latest(self) -> Stage:
        """The last stage after which the rule may still stand: its own."""
        return self.stage

    def placed(self, before: "tuple[Rule, ...]", after: "tuple[Rule, ...]") -> None:
        """Raise if the rule is wrong between these rules of its chain."""
        del before, after

    def scalars(self, clock: Clock, shared: "Shared") -> dict[str, Scalar]:
        """The real scalars of this step, computed once for all parameters.

        `apply` and `after_commit` get them as arrays. `shared(name)` returns a scalar
        that another rule of the chain publishes.
        """
        del clock, shared
        return {}

    def norm_scalars(
        self, norm: Array, scalars: Mapping[str, Scalar]
    ) -> dict[str, Scalar]:
        """Scalars that follow from the global norm (if `reads_norm`)."""
        del norm, scalars
        return {}

    def norm_after(self, norm: Array, scalars: Mapping[str, Scalar]) -> Array | None:
        """The norm that `apply` leaves of `norm`, if it follows from scalars."""
        del scalars
        return norm if self.keeps_norm else None

    def report(self, clock: Clock, shared: "Shared") -> dict[str, Scalar]:
        """The rates of this step, for `with_stats` and for the guard.

        Statistics record `learning_rate` and `weight_decay`; a guard refuses a step
        in which any of the rates is negative or not finite.
        """
        del clock, shared
        return {}

    def apply(self, leaf: Leaf, scalars: Mapping[str, Array]) -> Leaf:
        """Return the leaf after this rule; the default leaves it as it is.

        It is called once per parameter and step, with the scalars of this step.
        """
        del scalars
        return leaf

    def after_commit(
        self, target: Array, leaf: Leaf, scalars: Mapping[str, Array]
    ) -> tuple[Leaf, Overwrite | None]:
        """Change buffers after the parameter was written, or write it once more.

        `target` is the parameter as it was written, rounding and all. An `Overwrite`
        replaces the parameter; None leaves it.
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

    def skeleton(self) -> Self:
        """The rule without its hyperparameters: what a leaf function depends on.

        Leaf functions take all numbers as arguments, so one compiled leaf serves
        every learning rate. An Ellipsis stands where a hyperparameter was given.
        """
        fields = {
            f.name: ...
            for f in dataclasses.fields(self)
            if isinstance(getattr(self, f.name), Constant | Dynamic | Scheduled)
        }
        return dataclasses.replace(self, **fields)


class Shared:
    """The scalars of the rules of one chain, computed on demand and once each."""

    def __init__(self, rules: "tuple[Rule | None, ...]", clock: Clock):
        self._rules = rules
        self._clock = clock
        self._known: dict[int, dict[str, Scalar]] = {}

    def of(self, index: int) -> dict[str, Scalar]:
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
