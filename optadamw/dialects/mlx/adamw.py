"""MLX: `mlx.optimizers.AdamW`."""

from typing import Any

from optadamw.adamw import adamw
from optadamw.base.errors import mistyped
from optadamw.base.types import ScalarOrSchedule
from optadamw.dialects.calls.call import Door, door
from optadamw.dialects.calls.callables import schedule
from optadamw.dialects.calls.checks import pair
from optadamw.transforms.transformation import Transformation


@door("mlx", b1="betas", b2="betas", clip_global_norm="clip_grad_norm")
def AdamW(
    learning_rate: ScalarOrSchedule,
    betas: Any = (0.9, 0.999),
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.01,
    bias_correction: bool = False,
    *,
    clip_grad_norm: ScalarOrSchedule | None = None,
) -> Transformation:
    r"""`mlx.optimizers.AdamW`.

        p = p - learning_rate * weight_decay * p
        p = p - learning_rate * m / (sqrt(v) + eps)                 by default, or
        p = p - learning_rate / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)

    Without bias correction the first steps are larger: with the default betas the first
    is 3.16 times the learning rate.

    Source: mlx 0.32.4, `mlx/optimizers/optimizers.py`.
    Differs: parameters keep their dtype (there a bfloat16 parameter with a float32
    gradient becomes float32); a negative rate or decay is refused; a scheduled weight
    decay works; complex parameters are pairs of reals.

    Args:
      learning_rate: a number or a schedule of the finished steps.
      betas: a pair.
      eps: added to the root.
      weight_decay: times the learning rate.
      bias_correction: whether to divide by `1 - beta^t`.
      clip_grad_norm: `mlx.optimizers.clip_grad_norm(grads, value)` before the step.

    Returns:
      A transformation.

    Raises:
      ValueError, TypeError: a value out of its range.

    Example:
      >>> from optadamw.dialects import mlx
      >>> tx = mlx.AdamW(learning_rate=1e-3, betas=[0.9, 0.95], weight_decay=0.1)
    """
    if not isinstance(bias_correction, bool):
        raise mistyped("bias_correction", "True or False", bias_correction)
    b1, b2 = pair("betas", betas)
    return adamw(
        schedule(learning_rate),
        b1,
        b2,
        eps,
        weight_decay=weight_decay,
        bias_correction=bias_correction,
        clip_global_norm=clip_grad_norm,
        clip_eps=None if clip_grad_norm is None else 1e-6,
    )


DOOR = Door(
    module="mlx",
    peer="MLX",
    studied="mlx 0.32.4",
    function=AdamW,
    formula="p -= lr wd p; p -= lr m / (sqrt(v) + eps), no bias correction by default",
    arguments={
        "learning_rate": "`learning_rate`",
        "betas": "`b1`, `b2`",
        "eps": "`eps`",
        "weight_decay": "`weight_decay`, times the learning rate",
        "bias_correction": "`bias_correction`",
    },
    ours={
        "clip_grad_norm": "`clip_grad_norm` before the step: `clip_global_norm`, "
        "`clip_eps=1e-6`"
    },
    differs=(
        "A parameter keeps its dtype; there a float32 gradient makes a bfloat16 "
        "parameter float32.",
        "Moments are float32; there they have the gradients' dtype.",
        "Negative rates and decays are refused.",
    ),
    state={
        "step": "`step`",
        "learning_rate": "not read: the rate is that of `tx`",
        "*.m": "`mu`",
        "*.v": "`nu`",
    },
)
