"""R's keras3: `optimizer_adam_w` and `optimizer_loss_scale`."""

from typing import Any

import numpy as np

from optadamw.base.errors import invalid
from optadamw.base.types import ScalarOrSchedule
from optadamw.dialects import keras
from optadamw.dialects.calls.call import PeerCall, call
from optadamw.dialects.calls.checks import refuse_unknown
from optadamw.transforms.transformation import Transformation


@call("r_keras3", like=keras.AdamW)
def optimizer_adam_w(
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
    ema_overwrite_frequency: float | None = None,
    name: str = "adamw",
    *,
    loss_scale_factor: float | None = None,
    gradient_accumulation_steps: float | None = None,
    bug_compatible: bool = False,
    **kwargs: Any,
) -> Any:
    """`keras3::optimizer_adam_w()` of R.

    R computes nothing itself: it calls Keras, so the numbers are those of
    `optadamw.dialects.keras.AdamW`, whose docstring has the formulas.

    Source: R keras3 1.5.1, `R/optimizers.R`.

    Differs:
      - Numbers of steps must be whole: 2 and 2L are accepted, 2.5 is refused; R cuts it
        to 2.
      - All differences between `optadamw.dialects.keras.AdamW` and Keras.

    Example:
      >>> from optadamw.dialects import r_keras3
      >>> r_keras3.optimizer_adam_w(learning_rate=0.01, gradient_accumulation_steps=4.0)
      r_keras3.optimizer_adam_w(0.01, gradient_accumulation_steps=4.0)
    """
    refuse_unknown(optimizer_adam_w, kwargs)
    return keras.AdamW(
        learning_rate, weight_decay, beta_1, beta_2, epsilon, amsgrad,
        clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
        _as_integer("ema_overwrite_frequency", ema_overwrite_frequency),
        loss_scale_factor,
        _as_integer("gradient_accumulation_steps", gradient_accumulation_steps),
        name, bug_compatible=bug_compatible,
    )  # fmt: skip


@call("r_keras3", like=keras.LossScaleOptimizer)
def optimizer_loss_scale(
    inner_optimizer: Transformation,
    initial_scale: float = 32768.0,
    dynamic_growth_steps: float = 2000,
    *,
    name: str | None = None,
    **kwargs: Any,
) -> Transformation:
    """`keras3::optimizer_loss_scale()` of R: `keras.LossScaleOptimizer`.

    Example:
      >>> from optadamw.dialects import r_keras3
      >>> tx = r_keras3.optimizer_loss_scale(r_keras3.optimizer_adam_w())
    """
    return keras.LossScaleOptimizer(
        inner_optimizer,
        initial_scale,
        _as_integer("dynamic_growth_steps", dynamic_growth_steps),
        name,
        **kwargs,
    )


def _as_integer(name: str, value: Any) -> Any:
    """R's numbers are doubles: 2 is 2.0, and means a number of steps."""
    if isinstance(value, float | np.floating):
        if not np.isfinite(value) or value != int(value):
            raise invalid(name, "a whole number", value, "R would cut it in silence.")
        return int(value)
    return value


CALL = PeerCall(
    module="r_keras3",
    peer="R keras3",
    studied="keras3 1.5.1 for R, on Keras 3",
    formula=keras.CALL.formula,
    function=optimizer_adam_w,
    state=keras.CALL.state,
    ours=("bug_compatible",),
    others=(optimizer_loss_scale,),
)
