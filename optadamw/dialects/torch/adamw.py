"""PyTorch: `torch.optim.AdamW`, `clip_grad_norm_` and `GradScaler`."""

from typing import Any

from optadamw.adamw import adamw
from optadamw.base.errors import mistyped
from optadamw.base.types import ScalarOrSchedule
from optadamw.control.loss_scale import LARGEST, SMALLEST, DynamicLossScale
from optadamw.dialects.calls.call import PeerCall, call, described
from optadamw.dialects.calls.checks import flag, flags, whole
from optadamw.dialects.calls.phrases import Phrase, ValueAndRuntimeError
from optadamw.dialects.calls.torch_arguments import (
    PHRASES,
    STATE_OF_GROUPS,
    b1_and_b2,
    clipped,
    grouped,
    rate,
)
from optadamw.transforms.transformation import Transformation


@call("torch", phrases=PHRASES)
def AdamW(
    params: Any = None,
    lr: ScalarOrSchedule = 1e-3,
    betas: tuple[Any, Any] = (0.9, 0.999),
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-2,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
    foreach: bool | None = None,
    capturable: bool = False,
    differentiable: bool = False,
    fused: bool | None = None,
    clip_grad_norm: ScalarOrSchedule | None = None,
    clip_grad_value: ScalarOrSchedule | None = None,
    grad_scaler: DynamicLossScale | None = None,
) -> Transformation:
    r"""`torch.optim.AdamW`.

        g = -g if maximize
        p = p - lr * weight_decay * p
        m = b1 m + (1 - b1) g,    v = b2 v + (1 - b2) g^2,    [v = max(v, before)]
        p = p - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)

    Complex parameters are pairs of reals, as in PyTorch. 16-bit parameters have the
    numbers of `fused=True` (float32 inside, one rounding) with moments that stay
    float32.

    Source: PyTorch 2.13.0, `torch/optim/adam.py`, `adamw.py`.

    Differs:
      - All parameters have one count of steps. PyTorch counts for each parameter, which
        matters if a parameter gets its first gradient late.
      - A parameter in no group takes the options of the call; PyTorch does not train
        it.
      - 16-bit parameters have float32 moments and the arithmetic of `fused=True`.
        PyTorch's other two implementations round after every operation, and in float16
        they divide by zero at eps=1e-8.
      - A gradient of None leaves a parameter alone and a gradient of zeros decays it,
        as in PyTorch.

    Args:
      params: None (default) for all parameters, or a list of param groups by path
        pattern, such as `[{"params": "*/bias", "weight_decay": 0.0}]`. A parameter
        takes the options of the first group that matches it; a parameter in no group
        takes the options of the call. Sets `groups`.
      lr: Learning rate: a number, an array of one element, or a schedule `step -> rate`
        of the finished steps, which replaces a scheduler. Sets `learning_rate`.
      betas: Decay rates of the first and the second moment, both floats or both arrays;
        integers are refused. Sets `b1`, `b2`.
      eps: Added to the root of the corrected second moment. Sets `eps`.
      weight_decay: Weight decay, multiplied by the learning rate. Sets `weight_decay`.
      amsgrad: True divides by the maximum of the second moments so far, taken before
        their bias is corrected; False (default) does not. Sets `amsgrad`.
      maximize: True ascends the gradient, False (default) descends. Sets `maximize`.
      foreach: Accepted without effect: XLA always fuses what `foreach` batches.
      capturable: Accepted without effect: the step is always one compiled program.
      differentiable: Accepted without effect: `update` always has finite gradients.
      fused: Accepted without effect: the step always computes in float32 and rounds
        once at the end.
      clip_grad_norm: Limit on the norm of all gradients before the step, which
        `torch.nn.utils.clip_grad_norm_` applies: g min(1, c / (norm + 1e-6)). None
        (default) does not limit. Sets `clip_global_norm`, `clip_eps=1e-6`.
      clip_grad_value: Limit on the magnitude of each element of the gradients, which
        `torch.nn.utils.clip_grad_value_` applies, before `clip_grad_norm`. None
        (default) does not limit. Sets `clip_value`.
      grad_scaler: The loss scale that `GradScaler(...)` of this module returned. None
        (default): the loss is not scaled. Sets `loss_scale`.

    Example:
      >>> from optadamw.dialects import torch
      >>> torch.AdamW(lr=3e-4, weight_decay=0.1, clip_grad_norm=1.0)
      torch.AdamW(lr=0.0003, weight_decay=0.1, clip_grad_norm=1.0)
      >>> tx = torch.AdamW([{"params": "*/bias", "weight_decay": 0.0}], lr=3e-4)
    """
    flags(amsgrad=amsgrad, maximize=maximize, capturable=capturable, none=False)
    flags(foreach=foreach, fused=fused)
    if flag("differentiable", differentiable, none=False) and fused:
        raise ValueAndRuntimeError(
            "`fused` does not support `differentiable`; got both as True."
        )
    if fused and foreach:
        raise ValueAndRuntimeError(
            "`fused` and `foreach` cannot be `True` together. Choose one."
        )
    if grad_scaler is not None and not isinstance(grad_scaler, DynamicLossScale):
        raise mistyped("grad_scaler", "what GradScaler(...) returned", grad_scaler)
    names = {name: name for name in ("eps", "weight_decay", "amsgrad", "maximize")}
    return adamw(
        rate("lr", lr),
        eps=eps,
        weight_decay=weight_decay,
        amsgrad=amsgrad,
        maximize=maximize,
        clip_value=clip_grad_value,
        loss_scale=grad_scaler,
        **clipped(clip_grad_norm),
        **b1_and_b2(betas),
        **grouped(params, names, ("foreach", "capturable", "differentiable", "fused")),
    )


@described(
    phrases={
        "growth_factor": Phrase("The growth factor must be > 1.0", AssertionError),
        "backoff_factor": Phrase("The backoff factor must be < 1.0", AssertionError),
    }
)
def GradScaler(
    device: str = "cuda",
    init_scale: float = 2.0**16,
    growth_factor: float = 2.0,
    backoff_factor: float = 0.5,
    growth_interval: int = 2000,
    enabled: bool = True,
) -> DynamicLossScale | None:
    """`torch.amp.GradScaler`, for `AdamW(grad_scaler=...)`.

    `scaler.scale(loss)` is `optadamw.scale_loss(state, loss)`; unscaling, the check for
    infinities and the skipped step are inside the step. The scale stays a normal
    float32 number.

    Source: PyTorch 2.13.0, `torch/amp/grad_scaler.py`.

    Args:
      device: Accepted without effect: the scale is where the parameters are.
      init_scale: The first scale, > 0. Sets `DynamicLossScale.initial`.
      growth_factor: Factor by which the scale grows, > 1.
      backoff_factor: Factor by which the scale shrinks at a gradient that is not
        finite, in (0, 1).
      growth_interval: Number of finite gradients in a row after which the scale grows.
      enabled: False turns loss scaling off.

    Returns:
      A `DynamicLossScale`, or None if `enabled` is False.

    Example:
      >>> from optadamw.dialects import torch
      >>> tx = torch.AdamW(lr=1e-3, grad_scaler=torch.GradScaler(growth_interval=100))
    """
    if not isinstance(device, str):
        raise mistyped("device", "a string", device)
    if not flag("enabled", enabled, none=False):
        return None
    interval = whole("growth_interval", growth_interval, 1)
    return DynamicLossScale(
        initial=init_scale,
        growth_factor=growth_factor,
        backoff_factor=backoff_factor,
        growth_interval=interval,  # type: ignore[arg-type]
        minimum=SMALLEST,
        maximum=LARGEST,
    )


CALL = PeerCall(
    module="torch",
    peer="PyTorch",
    studied="torch 2.13.0",
    formula="p -= lr wd p; p -= lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps)",
    function=AdamW,
    state={
        "step": "`step`, of all parameters alike",
        "exp_avg": "`mu`",
        "exp_avg_sq": "`nu`",
        "max_exp_avg_sq": "`nu_max`",
        "param_groups": f"{STATE_OF_GROUPS}; `maximize` must agree",
    },
    ours=("clip_grad_norm", "clip_grad_value", "grad_scaler"),
    others=(GradScaler,),
)
