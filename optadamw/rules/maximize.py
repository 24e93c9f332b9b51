"""Ascend instead of descending."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from optadamw.base.types import Array
from optadamw.rules.rule import Leaf, Rule, Stage
from optadamw.transforms.transformation import Transformation, atom, spelled


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


@spelled
def maximize() -> Transformation:
    """Negate the gradients, before everything else, to maximize the objective.

    As PyTorch's `maximize=True`: the first moment is that of the negated gradient,
    and weight decay still shrinks the parameters.

    Returns:
      A transformation without buffers.

    Example:
      >>> import optadamw
      >>> tx = optadamw.adamw(1e-3, maximize=True)
    """
    return atom(Maximize())
