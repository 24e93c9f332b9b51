"""A user's rule with a moment that may be kept in any form: the heavy ball."""

from dataclasses import dataclass
from typing import ClassVar

from optadamw.custom import (
    BETA,
    Hyperparameter,
    Rule,
    Slot,
    Stage,
    Storage,
    atom,
    hyperparameter,
    prints_as_call,
    storage,
)


@dataclass(frozen=True)
class Momentum(Rule):
    beta: Hyperparameter
    velocity: Storage

    stage: ClassVar[Stage] = Stage.MOMENTS
    verb: ClassVar[str] = "scale_by_momentum"

    @property
    def slots(self):
        return (Slot("velocity", self.velocity),)

    def scalars(self, clock, shared):
        return {"beta": self.beta.at(clock)}

    def apply(self, leaf, scalars):
        velocity = scalars["beta"] * leaf.buffers["velocity"] + leaf.value()
        leaf = leaf.settled()._replace(numerator=velocity)
        return leaf.keeping(velocity=velocity)


@prints_as_call
def scale_by_momentum(beta=0.9, dtype=None):
    return atom(Momentum(hyperparameter("beta", beta, BETA), storage("dtype", dtype)))
