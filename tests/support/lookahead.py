from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from optadamw.custom import (
    FRACTION,
    Hyperparameter,
    Overwrite,
    Rule,
    Slot,
    Stage,
    Storage,
    atom,
    every_so_many,
    hyperparameter,
    prints_as_call,
    storage,
)


@dataclass(frozen=True)
class Lookahead(Rule):
    sync_period: Hyperparameter
    slow_step_size: Hyperparameter
    slow: Storage

    stage: ClassVar[Stage] = Stage.COMMITTED
    needs_params: ClassVar[bool] = True
    verb: ClassVar[str] = "lookahead"

    @property
    def slots(self):
        return (Slot("slow", self.slow, start="param"),)

    def scalars(self, clock, shared):
        every = jnp.asarray(self.sync_period.at(clock)).astype(jnp.int32)
        size = self.slow_step_size.at(clock)
        due = clock.number % jnp.maximum(every, 1) == 0
        return {"sync": due & (every > 0), "take": size, "keep": 1.0 - size}

    def after_commit(self, target, leaf, scalars):
        sync, slow = scalars["sync"] > 0, leaf.buffers["slow"]
        moved = scalars["keep"] * slow + scalars["take"] * target
        slow = jnp.where(sync, moved, slow)
        return leaf.keeping(slow=slow), Overwrite(when=sync, value=slow)


@prints_as_call
def lookahead(sync_period=6, slow_step_size=0.5, dtype=None):
    return atom(
        Lookahead(
            every_so_many("sync_period", sync_period),
            hyperparameter("slow_step_size", slow_step_size, FRACTION),
            storage("dtype", dtype),
        )
    )
