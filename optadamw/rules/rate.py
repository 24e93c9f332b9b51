"""The learning rate."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from optadamw.base.hyperparameters import (
    NON_NEGATIVE,
    Clock,
    Hyperparameter,
    hyperparameter,
)
from optadamw.base.types import Array, ScalarOrSchedule
from optadamw.rules.rule import Leaf, Lookups, Rule, Scalar, Stage
from optadamw.transforms.transformation import Transformation, atom, spelled


@dataclass(frozen=True)
class Rate(Rule):
    """Step against the direction."""

    learning_rate: Hyperparameter

    stage: ClassVar[Stage] = Stage.RATE
    publishes: ClassVar[tuple[str, ...]] = ("learning_rate",)
    once: ClassVar[bool] = True
    verb: ClassVar[str] = "scale_by_learning_rate"

    def scalars(self, clock: Clock, look: Lookups) -> dict[str, Scalar]:
        del look
        return {"learning_rate": self.learning_rate.at(clock)}

    def report(self, clock: Clock, look: Lookups) -> dict[str, Scalar]:
        del look
        return {"learning_rate": self.learning_rate.at(clock)}

    def apply(self, leaf: Leaf, scalars: Mapping[str, Array]) -> Leaf:
        return leaf._replace(numerator=leaf.numerator * -scalars["learning_rate"])


@spelled
def scale_by_learning_rate(learning_rate: ScalarOrSchedule) -> Transformation:
    """Multiply the direction by `-learning_rate`.

    Args:
      learning_rate: a number, array or schedule of the finished optimizer steps;
        >= 0, in units of the parameter per unit of the direction.

    Returns:
      A transformation without buffers.

    Raises:
      ValueError, TypeError: at construction, for a rate that is negative or not a
        number. None (with which Optax ascends) is refused: use `maximize()`.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.scale_by_learning_rate(0.5)
      >>> g = {"w": jnp.array([3.0])}
      >>> tx.update(g, tx.init(g))[0]["w"].tolist()
      [-1.5]
    """
    remedy = "To ascend, use `maximize`, not a negative rate or None."
    rate = hyperparameter("learning_rate", learning_rate, NON_NEGATIVE, remedy)
    return atom(Rate(rate))
