"""Optax: `adamw`, `nadamw`, `amsgrad`."""

from typing import Any

from optadamw.adamw import adamw as _adamw
from optadamw.base.types import DTypeLike, ScalarOrSchedule
from optadamw.dialects.calls.call import Door, door
from optadamw.dialects.calls.checks import flag
from optadamw.rules.adam import Corrected
from optadamw.transforms.amsgrad_max import amsgrad_max
from optadamw.transforms.chain import chain
from optadamw.transforms.scale_by_adam import scale_by_adam
from optadamw.transforms.scale_by_learning_rate import scale_by_learning_rate
from optadamw.transforms.transformation import Transformation


@door("optax")
def adamw(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = False,
) -> Transformation:
    r"""`optax.adamw`; `optadamw.adamw` takes the same call and more.

        p = p - learning_rate * (m^ / (sqrt(v^ + eps_root) + eps) + weight_decay * p)

    Source: optax 0.2.8, `optax/_src/alias.py`.
    Differs: the powers of beta are exact to float32 rounding; moments of 16-bit
    parameters are float32; None for the rate (which ascends there) and values out of
    range are refused; complex parameters are pairs of reals.

    Args:
      learning_rate: a number, an array or a schedule.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the root.
      eps_root: added under the root.
      mu_dtype: dtype in which the first moment is kept.
      weight_decay: a number or a schedule, times the learning rate.
      mask: which parameters are decayed.
      nesterov: look ahead by one step of momentum.

    Returns:
      A transformation.

    Raises:
      ValueError, TypeError: a value out of its range.

    Example:
      >>> from optadamw.dialects import optax
      >>> tx = optax.adamw(1e-3, weight_decay=0.1)
    """
    return _adamw(
        learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask,
        nesterov=nesterov,
    )  # fmt: skip


@door("optax")
def nadamw(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = True,
) -> Transformation:
    """`optax.nadamw`: `adamw` with `nesterov=True`.

    Source: optax 0.2.8, `optax/_src/alias.py`.

    Args:
      learning_rate: a number, an array or a schedule.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the root.
      eps_root: added under the root.
      mu_dtype: dtype in which the first moment is kept.
      weight_decay: a number or a schedule, times the learning rate.
      mask: which parameters are decayed.
      nesterov: look ahead by one step of momentum.

    Returns:
      A transformation.

    Raises:
      ValueError, TypeError: a value out of its range.

    Example:
      >>> from optadamw.dialects import optax
      >>> tx = optax.nadamw(1e-3)
    """
    return _adamw(
        learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask,
        nesterov=nesterov,
    )  # fmt: skip


@door("optax")
def amsgrad(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: DTypeLike | None = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
) -> Transformation:
    r"""`optax.amsgrad`: the maximum of the corrected second moments, and no decay.

        p = p - learning_rate * m^ / (sqrt(max over steps of v^ + eps_root) + eps)

    Source: optax 0.2.8, `optax/_src/alias.py`, `transform.py`. With decay:
    `optadamw.adamw(..., amsgrad="corrected")`.

    Args:
      learning_rate: a number, an array or a schedule.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the root.
      eps_root: added under the root.
      mu_dtype: dtype in which the first moment is kept.
      bias_correction_mu: whether to divide the first moment by `1 - b1^t`.
      bias_correction_nu: whether to divide the second by `1 - b2^t`.

    Returns:
      A transformation.

    Raises:
      ValueError, TypeError: a value out of its range.

    Example:
      >>> from optadamw.dialects import optax
      >>> tx = optax.amsgrad(1e-3, bias_correction_nu=False)
    """
    for name, value in (
        ("bias_correction_mu", bias_correction_mu),
        ("bias_correction_nu", bias_correction_nu),
    ):
        flag(name, value, none=False)
    corrected: dict[tuple[bool, bool], Corrected] = {
        (True, True): True,
        (True, False): "mu",
        (False, True): "nu",
        (False, False): False,
    }
    adam = scale_by_adam(
        b1,
        b2,
        eps,
        eps_root,
        mu_dtype,
        bias_correction=corrected[bias_correction_mu, bias_correction_nu],
    )
    rate = scale_by_learning_rate(learning_rate)
    return chain(adam, amsgrad_max("corrected"), rate)


DOOR = Door(
    module="optax",
    peer="Optax",
    studied="optax 0.2.8",
    function=adamw,
    formula="p -= lr (m^ / (sqrt(v^ + eps_root) + eps) + wd p)",
    arguments={
        "learning_rate": "`learning_rate`",
        "b1": "`b1`",
        "b2": "`b2`",
        "eps": "`eps`",
        "eps_root": "`eps_root`",
        "mu_dtype": "`mu_dtype`",
        "weight_decay": "`weight_decay`, times the learning rate",
        "mask": "`mask`",
        "nesterov": "`nesterov`",
    },
    differs=(
        "Bias corrections are exact to float32 rounding; Optax's are off by 1.3e-5 at "
        "the first step.",
        "Moments of 16-bit parameters are float32: in 16 bits a second moment freezes.",
        "`learning_rate=None`, which ascends there, is refused.",
        "Complex parameters are pairs of reals; Optax takes the magnitude.",
    ),
    state={
        "ScaleByAdamState.count": "`step`",
        "mu": "`mu`",
        "nu": "`nu`",
        "ScaleByAmsgradState.nu_max": "`nu_max`, of the corrected moments",
        "MultiStepsState.acc_grads": "`accumulator`, times the micro-steps",
        "MultiStepsState.mini_step": "`micro_step`, `weight`",
    },
    others=(nadamw, amsgrad),
)
