"""MLX: `mlx.optimizers.AdamW`."""

from typing import Any

from optadamw.adamw import adamw
from optadamw.base.types import ScalarOrSchedule
from optadamw.dialects.calls.call import PeerCall, call
from optadamw.dialects.calls.callables import schedule
from optadamw.dialects.calls.checks import flag, pair
from optadamw.transforms.transformation import Transformation


@call("mlx")
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

    Differs:
      - A parameter keeps its dtype; in MLX a float32 gradient makes a bfloat16
        parameter float32.
      - Moments are float32; in MLX they have the dtype of the gradients.
      - Negative rates and decays are refused.
      - A scheduled weight decay works.
      - Complex parameters are pairs of reals.

    Args:
      learning_rate: A number, or a schedule of the finished steps. Sets
        `learning_rate`.
      betas: Decay rates of the first and the second moment. Sets `b1`, `b2`.
      eps: Added to the root of the second moment. Sets `eps`.
      weight_decay: Weight decay, multiplied by the learning rate. Sets `weight_decay`.
      bias_correction: Whether to divide the moments by `1 - beta^t`. Sets
        `bias_correction`.
      clip_grad_norm: Limit on the norm of all gradients before the step, which
        `mlx.optimizers.clip_grad_norm(grads, value)` applies. Sets `clip_global_norm`,
        `clip_eps=1e-6`.

    Example:
      >>> from optadamw.dialects import mlx
      >>> tx = mlx.AdamW(learning_rate=1e-3, betas=[0.9, 0.95], weight_decay=0.1)
    """
    flag("bias_correction", bias_correction, none=False)
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


CALL = PeerCall(
    module="mlx",
    peer="MLX",
    studied="mlx 0.32.4",
    formula="p -= lr wd p; p -= lr m / (sqrt(v) + eps), no bias correction by default",
    function=AdamW,
    state={
        "step": "`step`",
        "learning_rate": "not read: the rate is that of `tx`",
        "*.m": "`mu`",
        "*.v": "`nu`",
    },
    ours=("clip_grad_norm",),
)
