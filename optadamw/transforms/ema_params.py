"""The running average of the parameters as a transformation."""

from typing import Any

from optadamw.base.hyperparameters import every_so_many, hyperparameter, switch
from optadamw.base.interval import FRACTION
from optadamw.base.types import ScalarOrSchedule
from optadamw.rules.ema import LEGAL, Average
from optadamw.store.formats import Stored
from optadamw.store.moments import average
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

    With p the parameter after the step, as it is written in its dtype (with
    `commit="master"` or "kahan" together with its residual), and t = `state.step` + 1:

        e_0 = p_0,    e_t = d e_{t-1} + (1 - d) p_t
        d = decay                                      plain
        d = min(decay, (1 + t) / (10 + t))             warmup
        d = decay (1 - decay^(t-1)) / (1 - decay^t)    debias

    With `debias` the average equals an average that starts at zero, divided by
    `1 - decay^t`: e_1 is p_1, and p_0 has no influence. Every `overwrite_every` steps
    the new average is written into the parameters (Keras's `ema_overwrite_frequency`),
    and the average itself does not change.

    It must be the last part of a chain, and of an `optax.chain` too, because it takes
    the updates that reach it as final.

    Source: Polyak & Juditsky 1992; warm-up as TensorFlow's ExponentialMovingAverage.
    Differs from `optax.ema`, which averages updates.

    Args:
      decay: the weight of the old average, in [0, 1]: a number, an array, or a schedule
        of the finished optimizer steps.
      overwrite_every: write the average into the parameters every that many steps: a
        whole number >= 1, or a schedule of such numbers (below 1: not at this step).
        None (default): never.
      debias: whether to use the formula `debias` above. Default: False. It excludes
        `warmup`.
      warmup: whether to use the formula `warmup` above, by which the average follows
        the first steps faster. Default: False. It excludes `debias`.
      dtype: format of the average in the state: "float32", "float64" or
        `stochastic("bfloat16")`. None (default): float32 (float64 for float64
        parameters).

    Returns:
      A transformation whose state has `ema`, a buffer for each parameter.

    Raises:
      ValueError, TypeError: at construction, an argument is out of its range or of a
        wrong type; when traced, the parameters were not passed.

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
            "`debias` and `warmup` exclude each other; got True for both. Choose one."
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
