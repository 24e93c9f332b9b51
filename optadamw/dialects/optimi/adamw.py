"""optimi (torch-optimi): `optimi.AdamW`."""

import warnings
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
    "triton": "always so: the step is one compiled program",
}


@door("optimi", learning_rate="lr", b1="betas", b2="betas", max_learning_rate="max_lr")
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
    Differs: 16-bit parameters are written with one rounding to nearest unless
    `kahan_sum=True` (on there by default for them), which covers the decay here;
    gradients are left as they are; the betas and eps are those of a float32 step.

    Args:
      params: None, or param groups by pattern, as `torch.AdamW`.
      lr: a number, an array or a schedule; required.
      betas: a pair.
      weight_decay: times the learning rate, or the schedule's multiplier alone.
      eps: added to the root.
      decouple_lr: `weight_decay_mode="schedule"`. A decay of 1e-3 or more is large
        then, and warned of.
      max_lr: the peak of the schedule; None: `lr`, where that is a number.
      kahan_sum: True writes 16-bit parameters with compensation, `commit="kahan"`;
        without any it is refused. None or False do not (None does there).
      foreach: accepted: XLA fuses over the whole step what foreach batches.
      triton: accepted: the step is always one compiled program.
      gradient_release: False. A compiled step has all gradients at once.
      clip_grad_norm: PyTorch's `clip_grad_norm_` before the step.

    Returns:
      A transformation.

    Raises:
      ValueError, TypeError: a value out of its range.

    Example:
      >>> from optadamw.dialects import optimi
      >>> tx = optimi.AdamW(lr=1e-3, decouple_lr=True, weight_decay=1e-5)
    """
    for name, value in (("foreach", foreach), ("triton", triton)):
        flag(name, value)
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
    if flag("decouple_lr", decouple_lr, none=False):
        peak = lr if max_lr is None and not callable(lr) else max_lr
        if peak is None:
            raise ValueError(
                "`max_lr` is missing: the decoupled decay is relative to the largest "
                f"learning rate, and `lr` is the schedule {lr!r}. Give it, for example "
                "max_lr=1e-3."
            )
        options |= {"weight_decay_mode": "schedule", "max_learning_rate": peak}
        if isinstance(weight_decay, float) and weight_decay >= 1e-3:
            warnings.warn(
                f"`weight_decay` is {weight_decay} with decouple_lr=True, where it is "
                "not multiplied by the learning rate: 1e-5 is a usual value.",
                stacklevel=4,
            )
    elif max_lr is not None:
        raise ValueError(
            f"`max_lr` has no effect without `decouple_lr`; got {max_lr!r}. Leave it "
            "out."
        )
    names = {"eps": "eps", "weight_decay": "weight_decay", "beta1": "b1", "beta2": "b2"}
    return adamw(
        lr,
        eps=eps,
        weight_decay=weight_decay,
        **options,
        **both(betas),
        **grouped(params, names, _FLAGS),
    )


DOOR = Door(
    module="optimi",
    peer="optimi",
    studied="torch-optimi 0.3.3",
    function=AdamW,
    formula="p -= lr wd p [or lr / max_lr wd p]; p -= lr m^ / (sqrt(v^) + eps)",
    arguments={
        "params": "None, or param groups by path pattern: `groups`",
        "lr": "`learning_rate`",
        "betas": "`b1`, `b2`",
        "weight_decay": "`weight_decay`",
        "eps": "`eps`",
        "decouple_lr": '`weight_decay_mode="schedule"`',
        "max_lr": "`max_learning_rate`",
        "kahan_sum": '`commit="kahan"` for True',
        "gradient_release": "False; True is refused",
        **_FLAGS,
    },
    ours={"clip_grad_norm": "PyTorch's `clip_grad_norm_` before the step"},
    differs=(
        "16-bit parameters are rounded to nearest once unless `kahan_sum=True`; there "
        "compensation is the default, and does not cover the decay.",
        "Gradients are left as they are; optimi writes into them.",
        "One count of steps; a parameter that gets its first gradient late starts at "
        "that count, as in optimi.",
    ),
    state={
        "step": "`step`",
        "exp_avg": "`mu`, times 1 - b1^t",
        "exp_avg_sq": "`nu`, times 1 - b2^t",
    },
)
