"""TensorFlow: `tf.keras.optimizers.AdamW` of Keras 2."""

from typing import Any

from optadamw.adamw import adamw
from optadamw.base.types import ScalarOrSchedule
from optadamw.dialects import keras
from optadamw.dialects.calls.call import PeerCall, call
from optadamw.dialects.calls.checks import flags, label, refuse_unknown
from optadamw.dialects.calls.keras_arguments import average, clips, decay, rate
from optadamw.dialects.calls.keras_phrases import KERAS_2
from optadamw.dialects.calls.selections import decaying, leaving_out
from optadamw.dialects.keras import (
    finalize_variable_values as finalize_variable_values,
)
from optadamw.transforms.transformation import Transformation


@call("tensorflow", like=keras.AdamW, phrases=KERAS_2)
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

    The formulas are those of `keras.AdamW`, except that the average starts as a copy of
    the initial parameters. This optimizer has no loss scaling and no accumulation;
    `optadamw.adamw` has both.

    Source: tf.keras of TensorFlow 2.14, `keras/optimizers/adamw.py`.

    Differs:
      - A callable learning rate is asked at every step, also when compiled.
      - bfloat16 parameters train; Keras 2 rounds beta_2=0.999 to 1.0 for them.
      - A clip of 0, rates and decays below 0, betas outside [0, 1) are refused.
      - A gradient that is not finite leaves the other parameters alone.

    Args:
      jit_compile: Accepted without effect: `jax.jit` decides whether a step is
        compiled.

    Example:
      >>> from optadamw.dialects import tensorflow
      >>> tx = tensorflow.AdamW(learning_rate=0.01, use_ema=True)
    """
    refuse_unknown(AdamW, kwargs)
    label("name", name)
    flags(amsgrad=amsgrad, jit_compile=jit_compile, none=False)
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


@call("tensorflow", like=keras.exclude_from_weight_decay)
def exclude_from_weight_decay(
    optimizer: Transformation,
    var_list: list[str] | None = None,
    var_names: list[str] | None = None,
) -> Transformation:
    """`optimizer.exclude_from_weight_decay(...)`: the optimizer without some decay.

    Example:
      >>> from optadamw.dialects import tensorflow
      >>> tx = tensorflow.exclude_from_weight_decay(
      ...     tensorflow.AdamW(), var_names=["bias"]
      ... )
    """
    return decaying(optimizer, leaving_out(var_list, var_names))


CALL = PeerCall(
    module="tensorflow",
    peer="TensorFlow (tf.keras 2)",
    studied="TensorFlow 2.14",
    formula=keras.CALL.formula,
    function=AdamW,
    state={
        "iteration": "`step`",
        "*m*, momentums": "`mu`",
        "*v*, velocities": "`nu`",
        "velocity_hats": "`nu_max`",
        "*_average": "`ema`",
    },
    others=(exclude_from_weight_decay, finalize_variable_values),
)
