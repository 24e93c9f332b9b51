"""optimi (torch-optimi): `optimi.AdamW`."""

import warnings
from typing import Any

from optadamw.adamw import adamw
from optadamw.base.errors import invalid
from optadamw.base.types import ScalarOrSchedule
from optadamw.dialects import torch
from optadamw.dialects.calls.call import PeerCall, call
from optadamw.dialects.calls.checks import flag, flags
from optadamw.dialects.calls.phrases import Phrase
from optadamw.dialects.calls.torch_arguments import (
    STATE_OF_GROUPS,
    b1_and_b2,
    clipped,
    grouped,
    rate,
    relative_decay,
)
from optadamw.transforms.transformation import Transformation

_PHRASES = {
    "learning_rate": Phrase("Invalid learning rate: lr={value}"),
    "lr": Phrase("Invalid learning rate: lr={value}"),
    "weight_decay": Phrase("Invalid weight decay: weight_decay={value}"),
    "max_learning_rate": Phrase("Invalid maximum learning rate: max_lr={value}"),
    "b1": Phrase("Invalid beta1 parameter: betas[0]={value}"),
    "b2": Phrase("Invalid beta2 parameter: betas[1]={value}"),
    "eps": Phrase("Invalid epsilon: eps={value}"),
}


@call("optimi", like=torch.AdamW, phrases=_PHRASES)
def AdamW(
    params: Any = None,
    lr: ScalarOrSchedule | None = None,
    betas: tuple[Any, Any] = (0.9, 0.99),
    weight_decay: ScalarOrSchedule = 1e-2,
    eps: ScalarOrSchedule = 1e-6,
    decouple_lr: bool = False,
    max_lr: ScalarOrSchedule | None = None,
    kahan_sum: bool | None = None,
    foreach: bool | None = None,
    triton: bool | None = None,
    gradient_release: bool = False,
    *,
    clip_grad_norm: ScalarOrSchedule | None = None,
) -> Transformation:
    r"""`optimi.AdamW`: decay that can be decoupled from the learning rate altogether.

        p = p - lr * weight_decay * p           or, decoupled, (lr / max_lr)
        p = p - lr * m^ / (sqrt(v^) + eps)

    with the bias-corrected moments m^ and v^, which optimi also stores.

    Source: torch-optimi 0.3.3, `optimi/adamw.py`.

    Differs:
      - 16-bit parameters are rounded to nearest once unless `kahan_sum=True`, whose
        compensation covers the decay too. In optimi compensation is the default and
        does not cover the decay.
      - Gradients are left as they are; optimi writes into them.
      - All parameters have one count of steps. A parameter that gets its first gradient
        late starts at that count, as in optimi.
      - The betas and eps are those of a float32 step.
      - `betas` in a param group are refused; optimi ignores them, and reads `beta1` and
        `beta2`.

    Args:
      weight_decay: Weight decay, multiplied by the learning rate, or by `lr / max_lr`
        with `decouple_lr=True`. Sets `weight_decay`.
      decouple_lr: Multiply the decay by `lr / max_lr` alone. A decay of 1e-3 or more is
        large then, and a warning says so. Sets `weight_decay_mode="schedule"`.
      max_lr: The largest value of the schedule `lr`. None (default) takes `lr`, if that
        is a number. Sets `max_learning_rate`.
      kahan_sum: True writes 16-bit parameters with Kahan compensation, and is refused
        without such parameters. None (default) and False round to nearest. Sets
        `commit="kahan"`.
      triton: Accepted without effect: the step is always one compiled program.
      gradient_release: Only False is accepted: a compiled step has all gradients at
        once.

    Example:
      >>> from optadamw.dialects import optimi
      >>> tx = optimi.AdamW(lr=1e-3, decouple_lr=True, weight_decay=1e-5)
    """
    flags(foreach=foreach, triton=triton)
    if flag("gradient_release", gradient_release, none=False):
        raise invalid(
            "gradient_release",
            "False",
            gradient_release,
            "The gradients of a compiled step exist together.",
        )
    if lr is None:
        raise TypeError("`lr` is missing: optimi has no default for it.")
    lr = rate("lr", lr)
    options: dict[str, Any] = clipped(clip_grad_norm)
    if flag("kahan_sum", kahan_sum):
        options["commit"] = "kahan"
    options |= relative_decay(
        "decouple_lr", "decoupled", "schedule", decouple_lr, lr, max_lr
    )
    if decouple_lr and isinstance(weight_decay, float) and weight_decay >= 1e-3:
        warnings.warn(
            f"`weight_decay` is {weight_decay} with decouple_lr=True, where it is not "
            "multiplied by the learning rate: 1e-5 is a usual value.",
            stacklevel=4,
        )
    names = {"eps": "eps", "weight_decay": "weight_decay", "beta1": "b1", "beta2": "b2"}
    return adamw(
        lr,
        eps=eps,
        weight_decay=weight_decay,
        **options,
        **b1_and_b2(betas),
        **grouped(params, names, ("foreach", "triton"), has_betas=False),
    )


CALL = PeerCall(
    module="optimi",
    peer="optimi",
    studied="torch-optimi 0.3.3",
    formula="p -= lr wd p [or lr / max_lr wd p]; p -= lr m^ / (sqrt(v^) + eps)",
    function=AdamW,
    state={
        "step": "`step`",
        "exp_avg": "`mu`, times 1 - b1^t",
        "exp_avg_sq": "`nu`, times 1 - b2^t",
        "param_groups": STATE_OF_GROUPS,
    },
    ours=("clip_grad_norm",),
)
