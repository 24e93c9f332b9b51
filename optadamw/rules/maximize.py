"""Ascent: maximize the objective instead of minimizing it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from optadamw.base.types import Array
from optadamw.rules.leaf import Leaf
from optadamw.rules.rule import Rule, Stage


@dataclass(frozen=True)
class Maximize(Rule):
    """Negate the gradient."""

    stage: ClassVar[Stage] = Stage.GRADIENT
    once: ClassVar[bool] = True
    shrinks: ClassVar[bool] = True
    keeps_norm: ClassVar[bool] = True
    verb: ClassVar[str] = "maximize"

    def apply(self, leaf: Leaf, scalars: Mapping[str, Array]) -> Leaf:
        del scalars
        return leaf.settled()._replace(numerator=-leaf.value())
