"""Adam's second moment without a first (Kingma & Ba, 1412.6980v9, lines 8 and 10)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from optadamw.base.bounded import bounded
from optadamw.base.hyperparameters import Clock, Hyperparameter
from optadamw.base.means import mean_form, running_mean
from optadamw.base.numerics import one_minus_power
from optadamw.base.types import Array
from optadamw.rules.adam import Corrected, Direction, EpsMode, Nesterov
from optadamw.rules.leaf import Leaf
from optadamw.rules.rule import Forms, Rule, Scalar, Shared, Stage
from optadamw.store.slot import Slot
from optadamw.store.store import Storage


@dataclass(frozen=True)
class SecondMoment(Rule):
    """A running mean of the squared gradient; the direction starts at the gradient."""

    b2: Hyperparameter
    nu: Storage

    stage: ClassVar[Stage] = Stage.MOMENTS
    publishes: ClassVar[tuple[str, ...]] = ("remaining_mu", "remaining_nu")
    forms: ClassVar[Forms] = {"b2": mean_form}
    verb: ClassVar[str] = "scale_by_second_moment"

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (Slot("nu", self.nu),)

    def scalars(self, clock: Clock, shared: Shared) -> dict[str, Scalar]:
        del shared
        b2 = self.b2.at(clock)
        return {
            "b2": b2,
            "one_minus_b2": 1.0 - b2,
            "remaining_mu": 1.0,
            "remaining_nu": one_minus_power(b2, clock.time),
        }

    def apply(self, leaf: Leaf, scalars: Mapping[str, Array]) -> Leaf:
        g = bounded(leaf.value(), leaf.is_bounded)
        b2, one_minus_b2 = scalars["b2"], scalars["one_minus_b2"]
        nu = leaf.buffers["nu"]
        nu = running_mean(nu, g * g, b2, one_minus_b2, mean_form(self.b2))
        leaf = leaf._replace(gradient=g, numerator=g, denominator=None, second=nu)
        return leaf.keeping(nu=nu)


@dataclass(frozen=True)
class OverRoot(Direction):
    """Divide the gradient by the root of the corrected second moment."""

    eps_mode: EpsMode = field(default="outside", repr=False)
    nesterov: Nesterov = field(default=False, repr=False)
    bias_correction: Corrected = field(default=True, repr=False)

    verb: ClassVar[str] = "scale_by_second_moment"
