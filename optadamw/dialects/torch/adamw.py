"""PyTorch: `torch.optim.AdamW`, `clip_grad_norm_` and `GradScaler`."""

from typing import Any

from optadamw.adamw import adamw
from optadamw.base.errors import mistyped
from optadamw.base.types import ScalarOrSchedule
from optadamw.control.loss_scale import LARGEST, SMALLEST, DynamicLossScale
from optadamw.dialects.calls.call import Door, door, speaking
from optadamw.dialects.calls.checks import flag, whole
from optadamw.dialects.calls.torch_arguments import both, clipped, grouped, rate
from optadamw.transforms.transformation import Transformation

_FLAGS = {
    "foreach": "always so: XLA fuses what foreach batches",
    "capturable": "always so: nothing leaves the compiled step",
    "differentiable": "always so: `update` has finite gradients",
    "fused": "always so: float32 inside, one rounding at the end",
}


@door(
    "torch",
    learning_rate="lr",
    b1="betas",
    b2="betas",
    clip_global_norm="clip_grad_norm",
    clip_value="clip_grad_value",
)
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

    Complex parameters are pairs of reals, as there. 16-bit parameters have the numbers
    of `fused=True` (float32 inside, one rounding) with moments that stay float32.

    Source: PyTorch 2.13.0, `torch/optim/adam.py`, `adamw.py`.
    Differs: one step count for all parameters (PyTorch has one each, which matters for
    a parameter that gets its first gradient late); a parameter that no group names has
    the options given here (PyTorch does not train it); integers are refused for `betas`
    as there.

    Args:
      params: None: the parameters are those of `init(params)`. Or param groups by
        pattern: `[{"params": "*/bias", "weight_decay": 0.0}]` with lr, betas, eps,
        weight_decay, amsgrad, maximize; the first that matches counts.
      lr: a number, an array of one element, or a schedule of the finished steps, in the
        place of a scheduler that multiplies it.
      betas: a pair, both floats or both arrays.
      eps: added to the root.
      weight_decay: times the learning rate.
      amsgrad: divide by the maximum of the (uncorrected) second moments.
      maximize: ascend.
      foreach: accepted: XLA fuses over the whole step what foreach batches.
      capturable: accepted: the step is always one compiled program.
      differentiable: accepted: gradients through `update` are always right and finite.
      fused: accepted: the arithmetic is always that of the fused kernel.
      clip_grad_norm: `torch.nn.utils.clip_grad_norm_(parameters, value)` before the
        step, `g min(1, c / (norm + 1e-6))`.
      clip_grad_value: `clip_grad_value_`, before it.
      grad_scaler: what `GradScaler(...)` of this module returned.

    Returns:
      A transformation.

    Raises:
      ValueError, TypeError: what PyTorch refuses, in its words where they help.

    Example:
      >>> from optadamw.dialects import torch
      >>> torch.AdamW(lr=3e-4, weight_decay=0.1, clip_grad_norm=1.0)
      torch.AdamW(lr=0.0003, weight_decay=0.1, clip_grad_norm=1.0)
      >>> tx = torch.AdamW([{"params": "*/bias", "weight_decay": 0.0}], lr=3e-4)
    """
    flag("amsgrad", amsgrad, none=False)
    flag("maximize", maximize, none=False)
    foreach = flag("foreach", foreach)
    fused = flag("fused", fused)
    flag("capturable", capturable, none=False)
    if flag("differentiable", differentiable, none=False) and fused:
        raise ValueError("`fused` does not support `differentiable`; got both as True.")
    if fused and foreach:
        raise ValueError("`fused` and `foreach` cannot be `True` together; choose one.")
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
        **both(betas),
        **grouped(params, names, _FLAGS),
    )


@speaking({"initial": "init_scale"})
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
    infinities and the skipped step are inside the step.

    Source: PyTorch 2.13.0, `torch/amp/grad_scaler.py`.
    Differs: the scale stays a normal float32 number.

    Args:
      device: accepted: arrays are where the parameters are.
      init_scale: > 0.
      growth_factor: > 1.
      backoff_factor: in (0, 1).
      growth_interval: finite gradients in a row after which the scale grows.
      enabled: False: no scaling at all.

    Returns:
      A `DynamicLossScale`, or None.

    Raises:
      ValueError, TypeError: a value out of its range.

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


DOOR = Door(
    module="torch",
    peer="PyTorch",
    studied="torch 2.13.0",
    function=AdamW,
    formula="p -= lr wd p; p -= lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps)",
    arguments={
        "params": "None, or param groups by path pattern: `groups`",
        "lr": "`learning_rate`",
        "betas": "`b1`, `b2`",
        "eps": "`eps`",
        "weight_decay": "`weight_decay`, times the learning rate",
        "amsgrad": "`amsgrad`, of the raw second moment",
        "maximize": "`maximize`",
        **_FLAGS,
    },
    ours={
        "clip_grad_norm": "`clip_grad_norm_` before the step: `clip_global_norm`, "
        "`clip_eps=1e-6`",
        "clip_grad_value": "`clip_grad_value_` before the step: `clip_value`",
        "grad_scaler": "`torch.amp.GradScaler`: `loss_scale`",
    },
    differs=(
        "One count of steps for all parameters; PyTorch counts for each, which matters "
        "where a parameter gets its first gradient late.",
        "A parameter in no group has the options of the call; there it is not trained.",
        "16-bit parameters have float32 moments and the arithmetic of `fused=True`; "
        "PyTorch's other two round after every operation, and their float16 divides "
        "by zero at eps=1e-8.",
        "A gradient of None leaves a parameter alone, as there; one of zeros decays.",
    ),
    state={
        "step": "`step`, of all parameters alike",
        "exp_avg": "`mu`",
        "exp_avg_sq": "`nu`",
        "max_exp_avg_sq": "`nu_max`",
        "param_groups": "not read but for `maximize`: the numbers are those of `tx`",
    },
    others=(GradScaler,),
)
