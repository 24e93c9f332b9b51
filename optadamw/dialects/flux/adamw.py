"""Flux and Optimisers.jl: `AdamW`."""

from typing import Any

from optadamw.adamw import adamw
from optadamw.base.types import ScalarOrSchedule
from optadamw.dialects.calls.call import PeerCall, call
from optadamw.dialects.calls.callables import schedule
from optadamw.dialects.calls.checks import flag, pair
from optadamw.rules.decay import DecayMode
from optadamw.transforms.transformation import Transformation


@call("flux")
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

    Differs:
      - The powers of beta are exact to float32 rounding; Optimisers.jl keeps a running
        product in the parameter's type.
      - Float16 parameters keep an epsilon of 1e-8, which Optimisers.jl rounds to 0.
      - Everything is range-checked; Optimisers.jl checks that eta is not negative.

    Args:
      eta: Learning rate: a number, or a schedule of the finished steps, which replaces
        `adjust!` in a loop. Sets `learning_rate`.
      beta: Decay rates of the first and the second moment, a pair. `AdamW(eta, 0.01)`,
        found in tutorials, gives one number and is an error, as in Julia. Sets `b1`,
        `b2`.
      lambda_: Weight decay; the underscore is there as `lambda` is a keyword of Python.
        Sets `weight_decay`.
      epsilon: Added to the root of the second moment. Sets `eps`.
      couple: Whether the decay is multiplied by eta. True is the default since
        Optimisers 0.4; before that, and in old Flux (`old_AdamW`), the decay was not
        multiplied. Sets `weight_decay_mode` to "lr", or to "independent" for False.

    Example:
      >>> from optadamw.dialects import flux
      >>> flux.AdamW(3e-4, (0.9, 0.95), 0.1)
      flux.AdamW(0.0003, beta=(0.9, 0.95), lambda_=0.1)
    """
    flag("couple", couple, none=False)
    b1, b2 = pair("beta", beta)
    mode: DecayMode = "lr" if couple else "independent"
    return adamw(
        schedule(eta), b1, b2, epsilon, weight_decay=lambda_, weight_decay_mode=mode
    )


@call("flux", like=AdamW)
def old_AdamW(
    eta: ScalarOrSchedule = 0.001,
    beta: tuple[Any, Any] = (0.9, 0.999),
    decay: ScalarOrSchedule = 0.0,
) -> Transformation:
    """`Flux.Optimise.AdamW(eta, beta, decay)` of old Flux (and Optimisers up to 0.3).

    `Optimiser(Adam(eta, beta), WeightDecay(decay))`: the decay is not times eta.

    Source: Flux 0.13, `src/optimise/optimisers.jl`.

    Args:
      decay: Share of each parameter that is taken off at each step. Sets
        `weight_decay`, `weight_decay_mode="independent"`.

    Example:
      >>> from optadamw.dialects import flux
      >>> tx = flux.old_AdamW(0.001, (0.9, 0.999), 1e-4)
    """
    b1, b2 = pair("beta", beta)
    return adamw(
        schedule(eta), b1, b2, weight_decay=decay, weight_decay_mode="independent"
    )


CALL = PeerCall(
    module="flux",
    peer="Flux / Optimisers.jl",
    studied="Optimisers.jl 0.4.8",
    formula="p -= eta (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + lambda p)",
    function=AdamW,
    state={"(mt, ...)": "`mu`", "(., vt, .)": "`nu`", "(..., beta_t)": "`step`"},
    others=(old_AdamW,),
)
