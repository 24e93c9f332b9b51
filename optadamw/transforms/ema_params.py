"""The running average of the parameters, as an atom."""

from typing import Any

from optadamw.base.hyperparameters import (
    FRACTION,
    every_so_many,
    hyperparameter,
    switch,
)
from optadamw.base.types import ScalarOrSchedule
from optadamw.rules.ema import LEGAL, Average
from optadamw.store.formats import Stored, average
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, atom


@prints_as_call
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
