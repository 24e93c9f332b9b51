"""Optax: `adamw`, `nadamw`, `amsgrad`."""

from typing import Any

from optadamw.adamw import adamw as _adamw
from optadamw.base.types import DTypeLike, ScalarOrSchedule
from optadamw.dialects.calls.call import PeerCall, call
from optadamw.dialects.calls.checks import flags
from optadamw.rules.adam import Corrected
from optadamw.transforms.amsgrad_max import amsgrad_max
from optadamw.transforms.chain import chain
from optadamw.transforms.scale_by_adam import scale_by_adam
from optadamw.transforms.scale_by_learning_rate import scale_by_learning_rate
from optadamw.transforms.transformation import Transformation


@call("optax")
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
    r"""`optax.adamw`; every argument is an option of `optadamw.adamw`, which has more.

        p = p - learning_rate * (m^ / (sqrt(v^ + eps_root) + eps) + weight_decay * p)

    Source: optax 0.2.8, `optax/_src/alias.py`.

    Differs:
      - Bias corrections are exact to float32 rounding; Optax's are off by 1.3e-5 at the
        first step.
      - Moments of 16-bit parameters are float32: in 16 bits a second moment freezes.
      - `learning_rate=None`, with which Optax ascends, is refused, and so are values
        out of range.
      - Complex parameters are pairs of reals; Optax takes the magnitude.

    Args:
      learning_rate: A number, an array or a schedule.
      b1: Decay rate of the first moment.
      b2: Decay rate of the second moment.
      eps: Added to the root of the corrected second moment.
      eps_root: Added to the corrected second moment, under the root.
      mu_dtype: The dtype in which the first moment is kept.
      weight_decay: Weight decay, a number or a schedule, multiplied by the learning
        rate.
      mask: The parameters that decay; None (default) is all.
      nesterov: Look ahead by one step of momentum.

    Example:
      >>> from optadamw.dialects import optax
      >>> tx = optax.adamw(1e-3, weight_decay=0.1)
    """
    return _adamw(
        learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask,
        nesterov=nesterov,
    )  # fmt: skip


@call("optax", like=adamw)
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

    Example:
      >>> from optadamw.dialects import optax
      >>> tx = optax.nadamw(1e-3)
    """
    return _adamw(
        learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask,
        nesterov=nesterov,
    )  # fmt: skip


@call("optax", like=adamw)
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
      bias_correction_mu: Whether to divide the first moment by `1 - b1^t`.
      bias_correction_nu: Whether to divide the second moment by `1 - b2^t`.

    Example:
      >>> from optadamw.dialects import optax
      >>> tx = optax.amsgrad(1e-3, bias_correction_nu=False)
    """
    flags(
        bias_correction_mu=bias_correction_mu,
        bias_correction_nu=bias_correction_nu,
        none=False,
    )
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


CALL = PeerCall(
    module="optax",
    peer="Optax",
    studied="optax 0.2.8",
    formula="p -= lr (m^ / (sqrt(v^ + eps_root) + eps) + wd p)",
    function=adamw,
    state={
        "ScaleByAdamState.count": "`step`",
        "mu": "`mu`",
        "nu": "`nu`",
        "ScaleByAmsgradState.nu_max": "`nu_max`, of the corrected moments",
        "MultiStepsState.acc_grads": "`accumulator`, times the micro-steps",
        "MultiStepsState.mini_step": "`micro_step`, `weight`",
        "InjectStatefulHyperparamsState.hyperparams": "compared with `tx`: a warning "
        "names numbers that differ, but for the learning rate and schedules",
    },
    others=(nadamw, amsgrad),
)
