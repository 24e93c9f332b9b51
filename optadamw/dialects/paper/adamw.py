"""The paper: Algorithm 2 of Loshchilov & Hutter, and its authors' code."""

from typing import Any

from optadamw.adamw import adamw as _adamw
from optadamw.base.errors import mistyped
from optadamw.base.types import Number, ScalarOrSchedule
from optadamw.dialects.calls.call import PeerCall, call
from optadamw.dialects.calls.callables import Times
from optadamw.dialects.calls.checks import takes
from optadamw.schedules import cosine_warm_restarts as cosine_warm_restarts
from optadamw.schedules import normalized_weight_decay as normalized_weight_decay
from optadamw.transforms.transformation import Transformation


@call("paper")
def adamw(
    alpha: Number = 0.001,
    beta_1: ScalarOrSchedule = 0.9,
    beta_2: ScalarOrSchedule = 0.999,
    epsilon: ScalarOrSchedule = 1e-8,
    lambda_: ScalarOrSchedule = 0.0,
    eta: Any = None,
) -> Transformation:
    r"""Algorithm 2, AdamW, word for word.

        m = b1 m + (1 - b1) g,      v = b2 v + (1 - b2) g^2         lines 7, 8
        m^ = m / (1 - b1^t),        v^ = v / (1 - b2^t)             lines 9, 10
        p = p - eta_t (alpha m^ / (sqrt(v^) + epsilon) + lambda p)  line 12

    The schedule multiplier eta_t is on both terms; alpha is not on the decay, which
    all libraries but TensorFlow Addons have multiplied by it.

    Source: arXiv 1711.05101v3, Algorithm 2. With warm restarts (AdamWR) and the
    normalized decay of its appendix B.1:

        eta = cosine_warm_restarts(steps, factor=2)
        lambda_ = normalized_weight_decay(0.05, restarts=eta)

    Differs:
      - `authors_adamw` is the authors' code, whose epsilon stands elsewhere than in
        their text. With their step-wise schedule the code forgets the decay; that is
        not copied.

    Args:
      alpha: The initial learning rate, a number; `eta` is the schedule. Sets
        `learning_rate`, `max_learning_rate`.
      beta_1: Decay rate of the first moment. Sets `b1`.
      beta_2: Decay rate of the second moment. Sets `b2`.
      epsilon: Added to the root of the second moment. Sets `eps`.
      lambda_: Weight decay, a number or a schedule. Sets `weight_decay`,
        `weight_decay_mode="schedule"`.
      eta: The schedule multiplier, a schedule of the finished steps. None (default) is
        1.

    Example:
      >>> from optadamw.dialects import paper
      >>> eta = paper.cosine_warm_restarts(1000, factor=2)
      >>> tx = paper.adamw(alpha=0.001, lambda_=0.01, eta=eta)
    """
    return _algorithm(alpha, beta_1, beta_2, epsilon, lambda_, eta, "outside")


@call("paper", like=adamw)
def authors_adamw(
    alpha: Number = 0.001,
    beta_1: ScalarOrSchedule = 0.9,
    beta_2: ScalarOrSchedule = 0.999,
    epsilon: ScalarOrSchedule = 1e-8,
    lambda_: ScalarOrSchedule = 0.0,
    eta: Any = None,
) -> Transformation:
    r"""The authors' Lua code, `UPDATETORCHFILES/adam.lua`.

        p = p - eta_t alpha sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + epsilon)
              - eta_t lambda p

    It differs from the paper's text by the place of epsilon ("epsilon hat"). Its cosine
    is `cosine_warm_restarts(steps, ahead=True)`, which counts a batch before using it,
    and its decay `normalized_weight_decay(0.0005, ...)`.

    Source: loshchil/AdamW-and-SGDW at 0ae5185b.

    Args:
      epsilon: Added to the root of the second moment, before its bias is corrected
        ("epsilon hat"). Sets `eps`, `eps_mode="hat"`.

    Example:
      >>> from optadamw.dialects import paper
      >>> decay = paper.normalized_weight_decay(5e-4, steps=100)
      >>> tx = paper.authors_adamw(lambda_=decay)
    """
    return _algorithm(alpha, beta_1, beta_2, epsilon, lambda_, eta, "hat")


def _algorithm(
    alpha: Any,
    beta_1: Any,
    beta_2: Any,
    epsilon: Any,
    lambda_: Any,
    eta: Any,
    eps_mode: Any,
) -> Transformation:
    if callable(alpha):
        raise mistyped(
            "alpha", "a number or a 0-d array", alpha, "Schedules are `eta`."
        )
    rate = alpha
    if eta is not None:
        if not callable(eta):
            raise mistyped("eta", "a schedule `step -> multiplier`, or None", eta)
        if not takes(eta, 1):
            raise mistyped("eta", "a schedule of one argument, the step", eta)
        rate = Times(alpha, eta)
    return _adamw(
        rate,
        beta_1,
        beta_2,
        epsilon,
        weight_decay=lambda_,
        weight_decay_mode="schedule",
        max_learning_rate=alpha,
        eps_mode=eps_mode,
    )


CALL = PeerCall(
    module="paper",
    peer="the paper",
    studied="arXiv 1711.05101v3",
    formula="p -= eta_t (alpha m^ / (sqrt(v^) + epsilon) + lambda p)",
    function=adamw,
    state={},
    others=(authors_adamw, cosine_warm_restarts, normalized_weight_decay),
)
