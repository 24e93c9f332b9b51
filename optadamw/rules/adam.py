"""Adam's moments and direction (Kingma & Ba, arXiv 1412.6980v9, Algorithm 1).

    m_t = b1 m_{t-1} + (1 - b1) g_t            moments, line 7
    v_t = b2 v_{t-1} + (1 - b2) g_t^2          line 8
    m^  = m_t / (1 - b1^t)                     bias correction, line 9
    v^  = v_t / (1 - b2^t)                     line 10
    d_t = m^ / (sqrt(v^ + eps_root) + eps)     direction, line 11

Two rules, so that a third (AMSGrad's maximum) can stand between them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp

from optadamw.base.errors import invalid
from optadamw.base.hyperparameters import (
    BETA,
    NON_NEGATIVE,
    Clock,
    Hyperparameter,
    hyperparameter,
    switch,
)
from optadamw.base.numerics import largest_square_root, one_minus_power, sqrt
from optadamw.base.types import Array, ScalarOrSchedule
from optadamw.rules.rule import Leaf, Lookups, Rule, Scalar, Slot, Stage
from optadamw.store.formats import Stored, moment
from optadamw.store.store import Storage
from optadamw.transforms.transformation import Transformation, atom, spelled

EpsMode = Literal["outside", "hat"]
Corrected = bool | Literal["mu", "nu"]
Nesterov = bool | Literal["current"]


@dataclass(frozen=True)
class Moments(Rule):
    """Running means of the gradient and of its square."""

    b1: Hyperparameter
    b2: Hyperparameter
    mu: Storage
    nu: Storage
    bias_correction: Corrected

    stage: ClassVar[Stage] = Stage.MOMENTS
    publishes: ClassVar[tuple[str, ...]] = ("b1", "remaining_mu", "remaining_nu")
    verb: ClassVar[str] = "scale_by_adam"

    @property
    def slots(self) -> tuple[Slot, ...]:
        return Slot("mu", self.mu), Slot("nu", self.nu)

    def scalars(self, clock: Clock, look: Lookups) -> dict[str, Scalar]:
        del look
        b1, b2 = self.b1.at(clock), self.b2.at(clock)
        return {
            "b1": b1,
            "b2": b2,
            "one_minus_b1": 1.0 - b1,
            "one_minus_b2": 1.0 - b2,
            "remaining_mu": self._remaining("mu", b1, clock.time),
            "remaining_nu": self._remaining("nu", b2, clock.time),
        }

    def _remaining(self, moment: str, beta: Scalar, t: Array) -> Scalar:
        """`1 - beta**t`: the weight that the gradients have in the mean by now."""
        is_corrected = self.bias_correction in (True, moment)
        return one_minus_power(beta, t) if is_corrected else 1.0

    def apply(self, leaf: Leaf, scalars: Mapping[str, Array]) -> Leaf:
        g = leaf.value() if leaf.is_bounded else _held(leaf.value())
        mu = scalars["b1"] * leaf.buffers["mu"] + scalars["one_minus_b1"] * g
        nu = scalars["b2"] * leaf.buffers["nu"] + scalars["one_minus_b2"] * (g * g)
        leaf = leaf._replace(gradient=g, numerator=mu, denominator=None, second=nu)
        return leaf.keeping(mu=mu, nu=nu)


@dataclass(frozen=True)
class Direction(Rule):
    """The first moment over the root of the second."""

    eps: Hyperparameter
    eps_root: Hyperparameter
    eps_mode: EpsMode
    nesterov: Nesterov
    bias_correction: Corrected

    stage: ClassVar[Stage] = Stage.DIRECTION
    verb: ClassVar[str] = "scale_by_adam"

    def scalars(self, clock: Clock, look: Lookups) -> dict[str, Scalar]:
        unit = jnp.ones((), clock.dtype)
        remaining_mu, remaining_nu = look("remaining_mu"), look("remaining_nu")
        # Reciprocals, so that the leaves multiply: XLA turns a division by a shared
        # scalar into this in some graphs only, and the bits would depend on it.
        mu_scale, nu_scale = unit / remaining_mu, unit / remaining_nu
        if self.eps_mode == "hat":
            mu_scale = mu_scale * sqrt(unit * remaining_nu)
            nu_scale = unit
        scalars = {
            "eps": self.eps.at(clock),
            "eps_root": self.eps_root.at(clock),
            "mu_scale": mu_scale,
            "nu_scale": nu_scale,
        }
        if self.nesterov:
            b1 = look("b1")
            scalars["gradient_scale"] = mu_scale * (1.0 - b1)
            if self.nesterov is True and self.bias_correction in (True, "mu"):
                ahead = one_minus_power(b1, clock.time + 1)
                mu_scale = mu_scale * (remaining_mu / ahead)
            scalars["mu_scale"] = mu_scale * b1
        return scalars

    def apply(self, leaf: Leaf, scalars: Mapping[str, Array]) -> Leaf:
        second = leaf.second
        assert second is not None
        numerator = leaf.numerator * scalars["mu_scale"]
        if self.nesterov:
            numerator = numerator + leaf.gradient * scalars["gradient_scale"]
        if not leaf.second_is_corrected:
            second = second * scalars["nu_scale"]
        denominator = sqrt(second + scalars["eps_root"]) + scalars["eps"]
        return leaf._replace(numerator=numerator, denominator=denominator)


def _held(g: Array) -> Array:
    """`g` with finite values kept where their squares are finite; inf and NaN pass."""
    most = largest_square_root(g.dtype)
    return jnp.where(jnp.isfinite(g), jnp.clip(g, -most, most), g)


@spelled
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

    With g the gradient, t = `state.step` + 1, and all of it in float32:

        m = b1 m + (1 - b1) g,           v = b2 v + (1 - b2) g^2
        outside:  d = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t) + eps_root) + eps)
        hat:      d = (m sqrt(1 - b2^t) / (1 - b1^t)) / (sqrt(v + eps_root) + eps)

    and d = 0 where the denominator is 0. With `nesterov` the numerator is
    `b1 m / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t)`, with `nesterov="current"`
    `(b1 m + (1 - b1) g) / (1 - b1^t)`.

    A finite gradient beyond 1.84e19 (1.3e154 in float64), whose square would
    overflow, counts as that; infinities and NaN pass through and stay visible.

    Source: arXiv 1412.6980v9, Algorithm 1; `hat` is the formula before its section
    2.1, used by Keras, TensorFlow and the authors of AdamW. Nesterov: Dozat 2016, as
    Optax's `scale_by_adam(nesterov=True)`; "current" is timm's NAdamW.
    Differs from `optax.scale_by_adam`: the powers of beta are accurate to float32
    rounding (Optax: 1.3e-5 at t = 1); moments are float32 under bfloat16 and float16
    parameters; complex parameters are two reals.

    Args:
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: added to the root; in units of the gradient, >= 0.
      eps_root: added under the root; in units of the squared gradient, >= 0.
      mu_dtype: how the first moment is kept: a dtype (rounded to nearest),
        `stochastic("bfloat16")` or `blockwise()`, 8 bits; None: float32 (float64 for
        float64 parameters). The step uses the unrounded value.
      nu_dtype: the same for the second moment. What would freeze it, such as
        "bfloat16" rounded to nearest with b2 = 0.999, is refused.
      nesterov: look ahead by one step of momentum: True corrects its bias as that of
        the next step, "current" as that of this one.
      bias_correction: whether to divide by `1 - beta^t`. MLX's default does not; "mu"
        or "nu" corrects one moment only.
      eps_mode: "outside" the root of the corrected moment, or "hat".

    Returns:
      A transformation whose state has `step`, `mu` and `nu`.

    Raises:
      ValueError, TypeError: at construction, for a hyperparameter out of its range, or
        a form in which a moment would freeze.

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
