"""timm: `AdamWLegacy` and `NAdamW` (its `AdamW` is PyTorch's)."""

from typing import Any

from optadamw.adamw import adamw
from optadamw.base.types import ScalarOrSchedule
from optadamw.dialects import torch
from optadamw.dialects.calls.call import PeerCall, call
from optadamw.dialects.calls.checks import flag, flags
from optadamw.dialects.calls.torch_arguments import (
    PHRASES,
    STATE_OF_GROUPS,
    b1_and_b2,
    clipped,
    grouped,
    rate,
    relative_decay,
)
from optadamw.transforms.transformation import Transformation


@call("timm", like=torch.AdamW, phrases=PHRASES)
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
    clipping_threshold: ScalarOrSchedule | None = None,
    *,
    max_lr: ScalarOrSchedule | None = None,
    clip_grad_norm: ScalarOrSchedule | None = None,
) -> Transformation:
    r"""`timm.optim.AdamWLegacy`: PyTorch's AdamW with caution and corrected decay.

        p = p - lr * weight_decay * p               or, corrected, lr^2 / max_lr
        p = p - lr * c * m / (1 - b1^t) / (k (sqrt(v) / sqrt(1 - b2^t) + eps))
        c = 1, or with caution (m g > 0) / max(mean(m g > 0), 1e-3)
        k = 1, or max(1, rms(g / (sqrt(v) / sqrt(1 - b2^t) + eps)) / clipping_threshold)

    Source: timm 1.0.29, `timm/optim/adamw.py`.

    Differs:
      - All parameters have one count of steps, moments are float32, and a 16-bit
        parameter is rounded once, as with `torch.AdamW`.
      - A negative weight decay is refused (`AdamWLegacy` of timm takes it).

    Args:
      weight_decay: Weight decay, multiplied by the learning rate, or by its square over
        the largest with `corrected_weight_decay=True`. Sets `weight_decay`.
      caution: Set the step to zero wherever its sign is not that of the gradient. Sets
        `caution`.
      corrected_weight_decay: Multiply the decay by `lr^2 / max_lr`. Sets
        `weight_decay_mode="corrected"`.
      clipping_threshold: Largest root mean square of g / (sqrt(v^) + eps) that leaves
        the step of a parameter as it is, > 0; the decay stays as it is. None (default):
        no limit. Sets `clip_update_rms`, `clip_update_keeps_decay=True`.
      max_lr: The largest learning rate, which is the constructor's `lr` in timm. None
        (default) takes `lr`; it must be given if `lr` is a schedule. Sets
        `max_learning_rate`.

    Example:
      >>> from optadamw.dialects import timm
      >>> tx = timm.AdamWLegacy(lr=1e-3, caution=True, corrected_weight_decay=True)
    """
    flag("amsgrad", amsgrad, none=False)
    return _timm(
        params, lr, betas, eps, weight_decay, caution, corrected_weight_decay, maximize,
        foreach, capturable, clipping_threshold, max_lr, clip_grad_norm,
        amsgrad=amsgrad,
    )  # fmt: skip


@call("timm", like=AdamWLegacy, phrases=PHRASES)
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
    clipping_threshold: ScalarOrSchedule | None = None,
    *,
    max_lr: ScalarOrSchedule | None = None,
    clip_grad_norm: ScalarOrSchedule | None = None,
) -> Transformation:
    r"""`timm.optim.NAdamW`: as `AdamWLegacy` with (b1 m + (1 - b1) g) for m.

    Source: timm 1.0.29, `timm/optim/nadamw.py`. Its bias correction is that of this
    step; `optax.nadamw` takes the next one's for m.

    Example:
      >>> from optadamw.dialects import timm
      >>> tx = timm.NAdamW(lr=1e-3)
    """
    return _timm(
        params, lr, betas, eps, weight_decay, caution, corrected_weight_decay, maximize,
        foreach, capturable, clipping_threshold, max_lr, clip_grad_norm,
        nesterov="current",
    )  # fmt: skip


def _timm(
    params: Any,
    lr: Any,
    betas: Any,
    eps: Any,
    weight_decay: Any,
    caution: Any,
    corrected: Any,
    maximize: Any,
    foreach: Any,
    capturable: Any,
    clipping: Any,
    max_lr: Any,
    clip_grad_norm: Any,
    **own: Any,
) -> Transformation:
    flags(maximize=maximize, caution=caution, capturable=capturable, none=False)
    flag("foreach", foreach)
    lr = rate("lr", lr)
    names = ("eps", "weight_decay", "maximize", "caution", *({"amsgrad"} & set(own)))
    named = {name: name for name in names} | {"clipping_threshold": "clip_update_rms"}
    groups = grouped(params, named, ("foreach", "capturable"))
    for _, chosen in groups.get("groups", ()):
        chosen |= _clipped_update(chosen.get("clip_update_rms"))
    return adamw(
        lr,
        eps=eps,
        weight_decay=weight_decay,
        maximize=maximize,
        caution=caution,
        **relative_decay(
            "corrected_weight_decay", "corrected", "corrected", corrected, lr, max_lr
        ),
        **clipped(clip_grad_norm),
        **b1_and_b2(betas),
        **_clipped_update(clipping),
        **groups,
        **own,
    )


def _clipped_update(threshold: Any) -> dict[str, Any]:
    """Turn a threshold into options of `adamw`."""
    if threshold is None:
        return {}
    return {"clip_update_rms": threshold, "clip_update_keeps_decay": True}


CALL = PeerCall(
    module="timm",
    peer="timm",
    studied="timm 1.0.29 to 1.0.31",
    formula=(
        "p -= lr wd p [or lr^2 / max_lr wd p]; "
        "p -= lr c m / (1 - b1^t) / (k (sqrt(v) / sqrt(1 - b2^t) + eps))"
    ),
    function=AdamWLegacy,
    state={
        "step": "`step`, of all parameters alike",
        "exp_avg": "`mu`",
        "exp_avg_sq": "`nu`",
        "max_exp_avg_sq": "`nu_max`",
        "param_groups": f"{STATE_OF_GROUPS}; `maximize` must agree",
    },
    ours=("max_lr", "clip_grad_norm"),
    others=(NAdamW,),
)
