"""Adam's moments and direction (Kingma & Ba, arXiv 1412.6980v9, Algorithm 1).

    m_t = b1 m_{t-1} + (1 - b1) g_t            moments, line 7
    v_t = b2 v_{t-1} + (1 - b2) g_t^2          line 8
    m^  = m_t / (1 - b1^t)                     bias correction, line 9
    v^  = v_t / (1 - b2^t)                     line 10
    d_t = m^ / (sqrt(v^ + eps_root) + eps)     direction, line 11

Moments and direction are two rules, so that AMSGrad's maximum can stand between them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp

from optadamw.base.bounded import bounded
from optadamw.base.floors import floor_form
from optadamw.base.hyperparameters import Clock, Hyperparameter
from optadamw.base.means import mean_form, running_mean
from optadamw.base.numerics import one_minus_power, sqrt
from optadamw.base.types import Array
from optadamw.rules.leaf import Leaf
from optadamw.rules.rule import Forms, Rule, Scalar, Shared, Stage
from optadamw.store.slot import Slot
from optadamw.store.store import Storage

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
    forms: ClassVar[Forms] = {"b1": mean_form, "b2": mean_form}
    verb: ClassVar[str] = "scale_by_adam"

    @property
    def slots(self) -> tuple[Slot, ...]:
        return Slot("mu", self.mu), Slot("nu", self.nu)

    def scalars(self, clock: Clock, shared: Shared) -> dict[str, Scalar]:
        del shared
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
        """Return `1 - beta**t`, the total weight of the gradients in the moment."""
        is_corrected = self.bias_correction in (True, moment)
        return one_minus_power(beta, t) if is_corrected else 1.0

    def apply(self, leaf: Leaf, scalars: Mapping[str, Array]) -> Leaf:
        g = bounded(leaf.value(), leaf.is_bounded)
        b1, one_minus_b1 = scalars["b1"], scalars["one_minus_b1"]
        b2, one_minus_b2 = scalars["b2"], scalars["one_minus_b2"]
        mu, nu = leaf.buffers["mu"], leaf.buffers["nu"]
        mu = running_mean(mu, g, b1, one_minus_b1, mean_form(self.b1))
        nu = running_mean(nu, g * g, b2, one_minus_b2, mean_form(self.b2))
        leaf = leaf._replace(gradient=g, numerator=mu, denominator=None, second=nu)
        return leaf.keeping(mu=mu, nu=nu)


@dataclass(frozen=True)
class Direction(Rule):
    """Divide the first moment by the root of the second."""

    eps: Hyperparameter
    eps_root: Hyperparameter
    eps_mode: EpsMode
    nesterov: Nesterov
    bias_correction: Corrected

    stage: ClassVar[Stage] = Stage.DIRECTION
    forms: ClassVar[Forms] = {"eps": floor_form}
    verb: ClassVar[str] = "scale_by_adam"

    def scalars(self, clock: Clock, shared: Shared) -> dict[str, Scalar]:
        unit = jnp.ones((), clock.dtype)
        remaining_mu, remaining_nu = shared("remaining_mu"), shared("remaining_nu")
        # Reciprocals, so that the leaves multiply: XLA turns a division by a shared
        # scalar into such a product in some programs only, and the bits would depend
        # on the program.
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
            b1 = shared("b1")
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
        nonzero = denominator if floor_form(self.eps) == "positive" else None
        return leaf._replace(
            numerator=numerator, denominator=denominator, nonzero=nonzero
        )
