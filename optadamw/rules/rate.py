"""The learning rate."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from optadamw.base.hyperparameters import Clock, Hyperparameter
from optadamw.base.types import Array
from optadamw.rules.leaf import Leaf
from optadamw.rules.rule import Rule, Scalar, Shared, Stage


@dataclass(frozen=True)
class Rate(Rule):
    """Multiply the direction by `-learning_rate`."""

    learning_rate: Hyperparameter

    stage: ClassVar[Stage] = Stage.RATE
    publishes: ClassVar[tuple[str, ...]] = ("learning_rate",)
    once: ClassVar[bool] = True
    verb: ClassVar[str] = "scale_by_learning_rate"

    def scalars(self, clock: Clock, shared: Shared) -> dict[str, Scalar]:
        del shared
        return {"learning_rate": self.learning_rate.at(clock)}

    def report(self, clock: Clock, shared: Shared) -> dict[str, Scalar]:
        del shared
        return {"learning_rate": self.learning_rate.at(clock)}

    def apply(self, leaf: Leaf, scalars: Mapping[str, Array]) -> Leaf:
        return leaf._replace(numerator=leaf.numerator * -scalars["learning_rate"])
