"""TensorFlow: `tf.keras.optimizers.AdamW` of Keras 2."""

from typing import Any

from optadamw.adamw import adamw
from optadamw.base.types import ScalarOrSchedule
from optadamw.dialects import keras
from optadamw.dialects.calls.call import Door, door
from optadamw.dialects.calls.checks import flag, label, refuse_unknown
from optadamw.dialects.calls.keras_arguments import average, clips, decay, rate
from optadamw.dialects.calls.selections import decaying, leaving_out
from optadamw.dialects.keras import (
    finalize_variable_values as finalize_variable_values,
)
from optadamw.transforms.transformation import Transformation


@door(
    "tensorflow",
    b1="beta_1",
    b2="beta_2",
    eps="epsilon",
    clip_norm="clipnorm",
    clip_value="clipvalue",
    clip_global_norm="global_clipnorm",
)
def AdamW(
    learning_rate: ScalarOrSchedule = 0.001,
    weight_decay: ScalarOrSchedule = 0.004,
    beta_1: ScalarOrSchedule = 0.9,
    beta_2: ScalarOrSchedule = 0.999,
    epsilon: ScalarOrSchedule = 1e-7,
    amsgrad: bool = False,
    clipnorm: float | None = None,
    clipvalue: float | None = None,
    global_clipnorm: float | None = None,
    use_ema: bool = False,
    ema_momentum: float = 0.99,
    ema_overwrite_frequency: int | None = None,
    jit_compile: bool = True,
    name: str = "AdamW",
    **kwargs: Any,
) -> Transformation:
    r"""`tf.keras.optimizers.AdamW` of TensorFlow 2.11 to 2.15 (Keras 2).

    The formulas of `keras.AdamW`, except that the average starts as a copy of the
    initial parameters:

        p = p - weight_decay * learning_rate * p
        p = p - learning_rate * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + epsilon)
        average = ema_momentum * average + (1 - ema_momentum) p

    Source: tf.keras of TensorFlow 2.14, `keras/optimizers/adamw.py`.
    Differs: as `keras.AdamW`. There is no loss scaling and no accumulation in this
    optimizer; `optadamw.adamw` has both.

    Args:
      learning_rate: a float, a schedule, or a callable without arguments.
      weight_decay: times the learning rate.
      beta_1: decay of the first moment, in [0, 1).
      beta_2: decay of the second moment, in [0, 1).
      epsilon: "epsilon hat".
      amsgrad: divide by the maximum of the second moments.
      clipnorm: limit on the norm of each parameter's gradient.
      clipvalue: limit on each element.
      global_clipnorm: limit on the norm of all gradients. Only one of the three.
      use_ema: keep an average of the parameters.
      ema_momentum: in [0, 1].
      ema_overwrite_frequency: write the average into the parameters every so many
        steps.
      jit_compile: accepted: whether the step is compiled is decided by `jax.jit`.
      name: part of how the transformation prints.
      **kwargs: refused, by name.

    Returns:
      A transformation.

    Raises:
      ValueError, TypeError: what Keras refuses, and what it should.

    Example:
      >>> from optadamw.dialects import tensorflow
      >>> tx = tensorflow.AdamW(learning_rate=0.01, use_ema=True)
    """
    refuse_unknown("tensorflow.AdamW", kwargs, DOOR.arguments)
    label("name", name)
    flag("amsgrad", amsgrad, none=False)
    flag("jit_compile", jit_compile, none=False)
    return adamw(
        rate(learning_rate),
        beta_1,
        beta_2,
        epsilon,
        weight_decay=decay(weight_decay, "AdamW"),
        eps_mode="hat",
        amsgrad=amsgrad,
        **clips(clipnorm, clipvalue, global_clipnorm),
        **average(use_ema, ema_momentum, ema_overwrite_frequency, first_copy=False),
    )


@door("tensorflow")
def exclude_from_weight_decay(
    optimizer: Transformation,
    var_list: list[str] | None = None,
    var_names: list[str] | None = None,
) -> Transformation:
    """`optimizer.exclude_from_weight_decay(...)`: the optimizer without some decay.

    Args:
      optimizer: what `AdamW` returned.
      var_list: paths of parameters, such as `["dense/bias"]`, exactly.
      var_names: regular expressions searched in the paths.

    Returns:
      A transformation; this one is a value and does not change.

    Raises:
      TypeError, ValueError: no list of strings; an expression without a match.

    Example:
      >>> from optadamw.dialects import tensorflow
      >>> tx = tensorflow.exclude_from_weight_decay(
      ...     tensorflow.AdamW(), var_names=["bias"]
      ... )
    """
    return decaying(optimizer, leaving_out(var_list, var_names))


_SHARED = (
    *("learning_rate", "weight_decay", "beta_1", "beta_2", "epsilon", "amsgrad"),
    *("clipnorm", "clipvalue", "global_clipnorm", "use_ema"),
)
"""Arguments that Keras 3 has kept as they were."""

DOOR = Door(
    module="tensorflow",
    peer="TensorFlow (tf.keras 2)",
    studied="TensorFlow 2.14",
    function=AdamW,
    formula=keras.DOOR.formula,
    arguments={
        **{name: keras.DOOR.arguments[name] for name in _SHARED},
        "ema_momentum": "`ema_decay`",
        "ema_overwrite_frequency": "`ema_overwrite_every`",
        "jit_compile": "decided by `jax.jit`",
        "name": "printed",
    },
    differs=(
        "A callable learning rate is asked at every step, also when compiled.",
        "bfloat16 parameters train; there beta_2=0.999 becomes 1.0.",
        "A clip of 0, rates and decays below 0, betas outside [0, 1) are refused.",
        "A gradient that is not finite leaves the other parameters alone.",
    ),
    state={
        "iteration": "`step`",
        "*m*, momentums": "`mu`",
        "*v*, velocities": "`nu`",
        "velocity_hats": "`nu_max`",
        "*_average": "`ema`",
    },
    others=(exclude_from_weight_decay, finalize_variable_values),
)
