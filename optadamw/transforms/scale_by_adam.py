"""Adam's moments and direction as a transformation."""

from optadamw.base.errors import invalid
from optadamw.base.hyperparameters import hyperparameter, switch
from optadamw.base.interval import BETA, NON_NEGATIVE
from optadamw.base.types import ScalarOrSchedule
from optadamw.rules.adam import Corrected, Direction, EpsMode, Moments, Nesterov
from optadamw.store.formats import Stored
from optadamw.store.moments import moment
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, atom


@prints_as_call
def scale_by_adam(
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: Stored | None = None,
    *,
    nu_dtype: Stored | None = None,
    nesterov: Nesterov = False,
    bias_correction: Corrected = True,
    eps_mode: EpsMode = "outside",
) -> Transformation:
    r"""Rescale gradients by Adam's moments.

    With g the gradient and t = `state.step` + 1, in float32 (float64 for float64
    parameters):

        m = b1 m + (1 - b1) g,           v = b2 v + (1 - b2) g^2
        outside:  d = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t) + eps_root) + eps)
        hat:      d = (m sqrt(1 - b2^t) / (1 - b1^t)) / (sqrt(v + eps_root) + eps)

    and d = 0 where the denominator is 0. With `nesterov=True` the numerator is
    `b1 m / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t)`, with `nesterov="current"`
    `(b1 m + (1 - b1) g) / (1 - b1^t)`.

    A finite gradient beyond 1.84e19 (1.3e154 in float64), whose square would overflow,
    is clipped to this magnitude; infinities and NaN pass through and stay visible.

    Source: arXiv 1412.6980v9, Algorithm 1; `hat` is the formula before its section
    2.1, used by Keras, TensorFlow and the authors of AdamW. Nesterov: Dozat 2016, as
    Optax's `scale_by_adam(nesterov=True)`; "current" is timm's NAdamW.
    Differs from `optax.scale_by_adam`: the powers of beta are accurate to float32
    rounding (Optax: 1.3e-5 at t = 1); moments are float32 under bfloat16 and float16
    parameters; complex parameters are two reals.

    Args:
      b1: decay of the first moment, in [0, 1). Default: 0.9.
      b2: decay of the second moment, in [0, 1). Default: 0.999.
      eps: added to the root, in units of the gradient, >= 0. Default: 1e-8.
      eps_root: added under the root, in units of the squared gradient, >= 0. Default:
        0.
      mu_dtype: format of the first moment in the state: a dtype, rounded to nearest;
        `stochastic("bfloat16")`, rounded at random; or `blockwise()`, 8 bits. None
        (default): float32 (float64 for float64 parameters). The step itself uses the
        unrounded moment.
      nu_dtype: format of the second moment in the state, with the choices and the
        default of `mu_dtype`. A format in which the moment would not change any more,
        such as "bfloat16" rounded to nearest with b2 = 0.999, is refused.
      nesterov: use Nesterov momentum: True with the bias correction of the next step,
        "current" with that of this step. Default: False.
      bias_correction: whether to divide the moments by `1 - beta^t`; "mu" or "nu"
        corrects one moment only. Default: True (MLX's default is False).
      eps_mode: the formula above in which `eps` enters: "outside" (default) or "hat".
        Both are equal if `nu` is not corrected.

    Returns:
      A transformation whose state has `step`, `mu` and `nu`.

    Raises:
      ValueError, TypeError: at construction, a hyperparameter is out of its range or of
        a wrong type, or a moment would not change any more in its format.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.scale_by_adam()
      >>> params = {"w": jnp.ones(3)}
      >>> updates, state = tx.update({"w": jnp.ones(3)}, tx.init(params), params)
      >>> int(state.step)
      1
    """
    if eps_mode not in ("outside", "hat"):
        raise invalid("eps_mode", "'outside' or 'hat'", eps_mode)
    bias_correction = switch("bias_correction", bias_correction, "mu", "nu")
    first, second = hyperparameter("b1", b1, BETA), hyperparameter("b2", b2, BETA)
    moments = Moments(
        b1=first,
        b2=second,
        mu=moment("mu_dtype", mu_dtype, first),
        nu=moment("nu_dtype", nu_dtype, second),
        bias_correction=bias_correction,
    )
    direction = Direction(
        eps=hyperparameter("eps", eps, NON_NEGATIVE),
        eps_root=hyperparameter("eps_root", eps_root, NON_NEGATIVE),
        eps_mode=eps_mode,
        nesterov=switch("nesterov", nesterov, "current"),
        bias_correction=bias_correction,
    )
    return atom(moments, direction)
