"""The running average of the parameters (Polyak; Keras's `use_ema`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp

from optadamw.base.hyperparameters import (
    FRACTION,
    Clock,
    Hyperparameter,
    every_so_many,
    hyperparameter,
    switch,
)
from optadamw.base.numerics import one_minus_power
from optadamw.base.tree import flatten, match_leaves
from optadamw.base.types import Array, PyTree, ScalarOrSchedule
from optadamw.rules.rule import Leaf, Lookups, Overwrite, Rule, Scalar, Slot, Stage
from optadamw.store.formats import Stored, average
from optadamw.store.state import State, state_with
from optadamw.store.store import Dense
from optadamw.transforms.transformation import Transformation, atom, spelled

LEGAL = "'float32', 'float64', stochastic('bfloat16') or None"
"""How an average may be kept."""


@dataclass(frozen=True)
class Average(Rule):
    """Move the average towards the committed parameter."""

    decay: Hyperparameter
    overwrite_every: Hyperparameter | None
    debias: bool
    warmup: bool
    ema: Dense

    stage: ClassVar[Stage] = Stage.COMMITTED
    needs_params: ClassVar[bool] = True
    verb: ClassVar[str] = "ema_params"

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (Slot("ema", self.ema, start="param"),)

    def scalars(self, clock: Clock, look: Lookups) -> dict[str, Scalar]:
        del look
        decay, t = self.decay.at(clock), clock.time
        if self.warmup:
            decay = jnp.minimum(decay, (1 + t) / (10 + t))
        scalars: dict[str, Scalar] = {"keep": decay, "take": 1.0 - decay}
        if self.debias:
            # The bias-corrected average from zero, kept corrected: the new parameter
            # weighs (1 - d) / (1 - d^t), which is 1 at t = 1, and 1 / t for d = 1.
            flat = jnp.asarray(decay == 1.0)
            weight = jnp.where(flat, 1, one_minus_power(decay, t))
            take = jnp.where(flat, 1 / t, scalars["take"] / weight)
            scalars = {"keep": 1 - take, "take": take}
        if self.overwrite_every is not None:
            every = jnp.asarray(self.overwrite_every.at(clock)).astype(jnp.int32)
            due = clock.number % jnp.maximum(every, 1) == 0
            scalars["overwrite"] = due & (every > 0)
        return scalars

    def after_commit(
        self, target: Array, leaf: Leaf, scalars: Mapping[str, Array]
    ) -> tuple[Leaf, Overwrite | None]:
        # Two products and not `ema + take * (target - ema)`, which loses the target
        # where `take` is 1 and the average is larger.
        ema = scalars["keep"] * leaf.buffers["ema"] + scalars["take"] * target
        leaf = leaf.keeping(ema=ema)
        if self.overwrite_every is None:
            return leaf, None
        return leaf, Overwrite(when=scalars["overwrite"] > 0, value=ema)


@spelled
def ema_params(
    decay: ScalarOrSchedule,
    *,
    overwrite_every: Any = None,
    debias: bool = False,
    warmup: bool = False,
    dtype: Stored | None = None,
) -> Transformation:
    """Keep a running average of the parameters; `ema_of(state)` reads it.

    With p the parameter as it was written, rounding and all, t = `state.step` + 1:

        e_0 = p_0,    e_t = d e_{t-1} + (1 - d) p_t
        d = decay                                      plain
        d = min(decay, (1 + t) / (10 + t))             warmup
        d = decay (1 - decay^(t-1)) / (1 - decay^t)    debias

    `debias` equals the average from zero divided by `1 - decay^t`: it starts from
    the first written parameter and forgets p_0. Every `overwrite_every` steps the
    average, after it moved, is written into the parameters (Keras's
    `ema_overwrite_frequency`); the average itself is kept.

    It stands last in a chain. In an `optax.chain` it takes the updates that reach it
    as final, so it must be the last part there too.

    Source: Polyak & Juditsky 1992; warm-up as TensorFlow's ExponentialMovingAverage.
    Differs from `optax.ema`, which averages updates.

    Args:
      decay: share of the old average that is kept, in [0, 1].
      overwrite_every: a whole number of steps >= 1, a schedule of them (below 1: not
        at this step), or None for never.
      debias: see above; not with `warmup`.
      warmup: see above; not with `debias`.
      dtype: how the average is kept: "float32", "float64" or `stochastic("bfloat16")`;
        None: float32 (float64 for float64 parameters).

    Returns:
      A transformation whose state has `ema`.

    Raises:
      ValueError, TypeError: at construction for a bad argument; when traced, for
        parameters that were not passed.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.chain(
      ...     optadamw.scale_by_learning_rate(1.0), optadamw.ema_params(0.5)
      ... )
      >>> params = {"w": jnp.array([4.0])}
      >>> params, state = tx.step({"w": jnp.array([2.0])}, tx.init(params), params)
      >>> optadamw.ema_of(state)["w"].tolist()
      [3.0]
    """
    debias, warmup = switch("debias", debias), switch("warmup", warmup)
    if debias and warmup:
        raise ValueError(
            "`debias` and `warmup` are two answers to the same question; got both as "
            "True. Choose one."
        )
    return atom(
        Average(
            decay=hyperparameter("decay", decay, FRACTION),
            overwrite_every=(
                None
                if overwrite_every is None
                else every_so_many("overwrite_every", overwrite_every)
            ),
            debias=debias,
            warmup=warmup,
            ema=average("dtype", dtype, LEGAL),
        )
    )


def averaging(state: PyTree) -> State:
    """The one State in `state` that keeps an average; else a ValueError."""
    remedy = "Ask for it with adamw(..., ema_decay=0.999) or ema_params(0.999)."
    return state_with(state, "ema", "average", " of the parameters", remedy)


def ema_of(state: PyTree, like: PyTree | None = None) -> PyTree:
    """The averaged parameters in `state`, wherever `ema_params` stands in it.

    Args:
      state: the state of a transformation, of an `optax.chain`, of a wrapper.
      like: parameters whose dtypes the result takes; None: as kept (float32).

    Returns:
      A tree like the parameters.

    Raises:
      ValueError: there is no average in `state`, or more than one.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.adamw(1e-3, ema_decay=0.99)
      >>> optadamw.ema_of(tx.init(jnp.ones(2))).tolist()
      [1.0, 1.0]
    """
    average = averaging(state).ema
    if like is None:
        return average
    leaves = flatten(average)
    likes = match_leaves(like, leaves, "`like`")
    pairs = zip(leaves.arrays, likes, strict=True)
    return leaves.treedef.unflatten([e.astype(p.dtype) for e, p in pairs])
