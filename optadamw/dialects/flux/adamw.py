"""Flux and Optimisers.jl: `AdamW`."""

from typing import Any

from optadamw.adamw import adamw
from optadamw.base.errors import mistyped
from optadamw.base.types import ScalarOrSchedule
from optadamw.dialects.calls.call import Door, door
from optadamw.dialects.calls.callables import schedule
from optadamw.dialects.calls.checks import pair
from optadamw.rules.decay import DecayMode
from optadamw.transforms.transformation import Transformation


@door(
    "flux",
    learning_rate="eta",
    b1="beta",
    b2="beta",
    eps="epsilon",
    weight_decay="lambda_",
)
def AdamW(
    eta: ScalarOrSchedule = 0.001,
    beta: tuple[Any, Any] = (0.9, 0.999),
    lambda_: ScalarOrSchedule = 0.0,
    epsilon: ScalarOrSchedule = 1e-8,
    *,
    couple: bool = True,
) -> Transformation:
    r"""`Optimisers.AdamW(eta, beta, lambda, epsilon; couple)`, which Flux exports.

        d = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + epsilon)
        couple:      p = p - eta * (d + lambda * p)
        otherwise:   p = p - eta * d - lambda * p

    There is no decay unless `lambda_` asks for it.

    Source: Optimisers.jl 0.4.8, `src/rules.jl`.
    Differs: the powers of beta are exact (there a running product in the parameter's
    type); float16 keeps its epsilon (there 1e-8 becomes 0).

    Args:
      eta: the learning rate; a schedule stands for `adjust!` in a loop.
      beta: a pair.
      lambda_: weight decay; `lambda` is a keyword of Python.
      epsilon: added to the root.
      couple: whether the decay is times eta. It is by default since Optimisers
        0.4; before, and in old Flux, it was not: `old_AdamW`.

    Returns:
      A transformation.

    Raises:
      ValueError, TypeError: a negative rate (a DomainError there), one number for beta.

    Example:
      >>> from optadamw.dialects import flux
      >>> flux.AdamW(3e-4, (0.9, 0.95), 0.1)
      flux.AdamW(0.0003, beta=(0.9, 0.95), lambda_=0.1)
    """
    if not isinstance(couple, bool):
        raise mistyped("couple", "True or False", couple)
    b1, b2 = pair("beta", beta)
    mode: DecayMode = "lr" if couple else "independent"
    return adamw(
        schedule(eta), b1, b2, epsilon, weight_decay=lambda_, weight_decay_mode=mode
    )


@door("flux", learning_rate="eta", b1="beta", b2="beta", weight_decay="decay")
def old_AdamW(
    eta: ScalarOrSchedule = 0.001,
    beta: tuple[Any, Any] = (0.9, 0.999),
    decay: ScalarOrSchedule = 0.0,
) -> Transformation:
    """`Flux.Optimise.AdamW(eta, beta, decay)` of old Flux (and Optimisers up to 0.3).

    `Optimiser(Adam(eta, beta), WeightDecay(decay))`: the decay is not times eta.

    Source: Flux 0.13, `src/optimise/optimisers.jl`.

    Args:
      eta: the learning rate.
      beta: a pair. `AdamW(eta, 0.01)`, found in tutorials, gives a number here,
        which is an error there too.
      decay: share of the parameter that is taken off at each step.

    Returns:
      A transformation.

    Raises:
      ValueError, TypeError: as `AdamW`.

    Example:
      >>> from optadamw.dialects import flux
      >>> tx = flux.old_AdamW(0.001, (0.9, 0.999), 1e-4)
    """
    b1, b2 = pair("beta", beta)
    return adamw(
        schedule(eta), b1, b2, weight_decay=decay, weight_decay_mode="independent"
    )


DOOR = Door(
    module="flux",
    peer="Flux / Optimisers.jl",
    studied="Optimisers.jl 0.4.8",
    function=AdamW,
    formula="p -= eta (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + lambda p)",
    arguments={
        "eta": "`learning_rate`",
        "beta": "`b1`, `b2`",
        "lambda_": "`weight_decay`",
        "epsilon": "`eps`",
        "couple": '`weight_decay_mode`: "lr", or "independent" for False',
    },
    differs=(
        "The powers of beta are exact to float32 rounding; there they are a running "
        "product in the parameter's type.",
        "Float16 parameters keep an epsilon of 1e-8; there it becomes 0.",
        "Everything is range-checked; there only a negative eta is.",
    ),
    state={"(mt, ...)": "`mu`", "(., vt, .)": "`nu`", "(..., beta_t)": "`step`"},
    others=(old_AdamW,),
)
