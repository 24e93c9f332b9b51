"""timm: `AdamWLegacy` and `NAdamW` (its `AdamW` is PyTorch's)."""

from typing import Any

from optadamw.adamw import adamw
from optadamw.base.errors import invalid
from optadamw.base.types import ScalarOrSchedule
from optadamw.dialects.calls.call import Door, door
from optadamw.dialects.calls.checks import flag
from optadamw.dialects.calls.torch_arguments import both, clipped, grouped, rate
from optadamw.transforms.transformation import Transformation

_FLAGS = {
    "foreach": "always so: XLA fuses what foreach batches",
    "capturable": "always so: nothing leaves the compiled step",
}


@door("timm", learning_rate="lr", b1="betas", b2="betas", max_learning_rate="max_lr")
def AdamWLegacy(
    params: Any = None,
    lr: ScalarOrSchedule = 1e-3,
    betas: tuple[Any, Any] = (0.9, 0.999),
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-2,
    amsgrad: bool = False,
    caution: bool = False,
    corrected_weight_decay: bool = False,
    maximize: bool = False,
    foreach: bool | None = None,
    capturable: bool = False,
    clipping_threshold: None = None,
    *,
    max_lr: ScalarOrSchedule | None = None,
    clip_grad_norm: ScalarOrSchedule | None = None,
) -> Transformation:
    r"""`timm.optim.AdamWLegacy`: PyTorch's AdamW with caution and corrected decay.

        p = p - lr * weight_decay * p               or, corrected, lr^2 / max_lr
        p = p - lr * c * m / (1 - b1^t) / (sqrt(v) / sqrt(1 - b2^t) + eps)
        c = 1, or with caution (m g > 0) / max(mean(m g > 0), 1e-3)

    Source: timm 1.0.29, `timm/optim/adamw.py`.
    Differs: as `torch.AdamW`; a negative weight decay is refused.

    Args:
      params: None, or param groups by pattern, as `torch.AdamW`.
      lr: a number, an array or a schedule.
      betas: a pair.
      eps: added to the root.
      weight_decay: times the learning rate, or its square over the largest.
      amsgrad: divide by the maximum of the second moments.
      caution: zero the direction where its sign is not the gradient's.
      corrected_weight_decay: `weight_decay_mode="corrected"`.
      maximize: ascend.
      foreach: accepted: XLA fuses over the whole step what foreach batches.
      capturable: accepted: the step is always one compiled program.
      clipping_threshold: None; the clip of StableAdamW is not here.
      max_lr: the constructor's `lr` in timm; needed where `lr` is a schedule here.
      clip_grad_norm: PyTorch's `clip_grad_norm_` before the step.

    Returns:
      A transformation.

    Raises:
      ValueError, TypeError: a value out of its range.

    Example:
      >>> from optadamw.dialects import timm
      >>> tx = timm.AdamWLegacy(lr=1e-3, caution=True, corrected_weight_decay=True)
    """
    options = {"amsgrad": amsgrad, "maximize": maximize} | clipped(clip_grad_norm)
    return _timm(
        params, lr, betas, eps, weight_decay, corrected_weight_decay, max_lr,
        caution, foreach, capturable, clipping_threshold, options,
    )  # fmt: skip


@door("timm", learning_rate="lr", b1="betas", b2="betas", max_learning_rate="max_lr")
def NAdamW(
    params: Any = None,
    lr: ScalarOrSchedule = 1e-3,
    betas: tuple[Any, Any] = (0.9, 0.999),
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-2,
    caution: bool = False,
    corrected_weight_decay: bool = False,
    maximize: bool = False,
    foreach: bool | None = None,
    capturable: bool = False,
    clipping_threshold: None = None,
    *,
    max_lr: ScalarOrSchedule | None = None,
    clip_grad_norm: ScalarOrSchedule | None = None,
) -> Transformation:
    r"""`timm.optim.NAdamW`: as `AdamWLegacy` with (b1 m + (1 - b1) g) for m.

    Source: timm 1.0.29, `timm/optim/nadamw.py`. Its bias correction is that of this
    step; `optax.nadamw` takes the next one's for m.

    Args:
      params: None, or param groups by pattern, as `torch.AdamW`.
      lr: a number, an array or a schedule.
      betas: a pair.
      eps: added to the root.
      weight_decay: times the learning rate, or its square over the largest.
      caution: zero the direction where its sign is not the gradient's.
      corrected_weight_decay: `weight_decay_mode="corrected"`.
      maximize: ascend.
      foreach: accepted: XLA fuses over the whole step what foreach batches.
      capturable: accepted: the step is always one compiled program.
      clipping_threshold: None; the clip of StableAdamW is not here.
      max_lr: the constructor's `lr` in timm; needed where `lr` is a schedule here.
      clip_grad_norm: PyTorch's `clip_grad_norm_` before the step.

    Returns:
      A transformation.

    Raises:
      ValueError, TypeError: a value out of its range.

    Example:
      >>> from optadamw.dialects import timm
      >>> tx = timm.NAdamW(lr=1e-3)
    """
    options = {"nesterov": "current", "maximize": maximize}
    options |= clipped(clip_grad_norm)
    return _timm(
        params, lr, betas, eps, weight_decay, corrected_weight_decay, max_lr,
        caution, foreach, capturable, clipping_threshold, options,
    )  # fmt: skip


def _timm(
    params: Any,
    lr: Any,
    betas: Any,
    eps: Any,
    weight_decay: Any,
    corrected: Any,
    max_lr: Any,
    caution: Any,
    foreach: Any,
    capturable: Any,
    clipping: Any,
    options: dict[str, Any],
) -> Transformation:
    for name, value in (*options.items(), ("caution", caution)):
        if name in ("amsgrad", "maximize", "caution"):
            flag(name, value, none=False)
    flag("foreach", foreach)
    flag("capturable", capturable, none=False)
    if clipping is not None:
        raise invalid(
            "clipping_threshold",
            "None",
            clipping,
            "The clip of StableAdamW is not here; clip_by_norm after scale_by_adam "
            "limits the direction of each parameter.",
        )
    lr = rate("lr", lr)
    if flag("corrected_weight_decay", corrected, none=False):
        # The constructor's rate for all groups, whatever a group's own is.
        peak = lr if max_lr is None and not callable(lr) else max_lr
        if peak is None:
            raise ValueError(
                "`max_lr` is missing: the corrected decay is relative to the largest "
                f"learning rate, and `lr` is the schedule {lr!r}. Give it, for example "
                "max_lr=1e-3."
            )
        options |= {"weight_decay_mode": "corrected", "max_learning_rate": peak}
    elif max_lr is not None:
        raise ValueError(
            "`max_lr` has no effect without `corrected_weight_decay`; got "
            f"{max_lr!r}. Leave it out."
        )
    own = ("eps", "weight_decay", "maximize", "caution")
    names = {name: name for name in own}
    if "amsgrad" in options:
        names["amsgrad"] = "amsgrad"
    return adamw(
        lr,
        eps=eps,
        weight_decay=weight_decay,
        caution=caution,
        **options,
        **both(betas),
        **grouped(params, names, _FLAGS),
    )


DOOR = Door(
    module="timm",
    peer="timm",
    studied="timm 1.0.29 to 1.0.31",
    function=AdamWLegacy,
    formula=(
        "p -= lr wd p [or lr^2 / max_lr wd p]; "
        "p -= lr c m / (1 - b1^t) / (sqrt(v) / sqrt(1 - b2^t) + eps)"
    ),
    arguments={
        "params": "None, or param groups by path pattern: `groups`",
        "lr": "`learning_rate`",
        "betas": "`b1`, `b2`",
        "eps": "`eps`",
        "weight_decay": "`weight_decay`",
        "amsgrad": "`amsgrad`, of the raw second moment",
        "caution": "`caution`",
        "corrected_weight_decay": '`weight_decay_mode="corrected"`',
        "maximize": "`maximize`",
        **_FLAGS,
        "clipping_threshold": "None; others are refused",
    },
    ours={
        "max_lr": "the constructor's `lr` there, where `lr` is a schedule here",
        "clip_grad_norm": "PyTorch's `clip_grad_norm_` before the step",
    },
    differs=(
        "As PyTorch's: one count of steps, float32 moments, one rounding.",
        "A negative weight decay is refused (`AdamWLegacy` takes it).",
    ),
    state={
        "step": "`step`, of all parameters alike",
        "exp_avg": "`mu`",
        "exp_avg_sq": "`nu`",
        "max_exp_avg_sq": "`nu_max`",
    },
    others=(NAdamW,),
)
