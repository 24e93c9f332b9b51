"""Limits on gradients: by element, by parameter, over the whole tree."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from optadamw.base.hyperparameters import (
    NON_NEGATIVE,
    POSITIVE,
    Clock,
    Constant,
    Hyperparameter,
    hyperparameter,
)
from optadamw.base.numerics import norm
from optadamw.base.types import Array, ScalarOrSchedule
from optadamw.rules.rule import Leaf, Lookups, Rule, Scalar, Stage
from optadamw.transforms.transformation import Transformation, atom, spelled

_REMEDY = "Leave the clip out to switch it off."


@dataclass(frozen=True)
class _Clip(Rule):
    limit: Hyperparameter

    stage: ClassVar[Stage] = Stage.GRADIENT
    shrinks: ClassVar[bool] = True

    @property
    def latest(self) -> Stage:
        # After Adam it limits the direction, which is a known use of its own.
        return Stage.CAUTION

    def scalars(self, clock: Clock, look: Lookups) -> dict[str, Scalar]:
        del look
        return {"limit": self.limit.at(clock)}


@dataclass(frozen=True)
class ClipByValue(_Clip):
    """Hold every element within +-limit."""

    verb: ClassVar[str] = "clip_by_value"

    def apply(self, leaf: Leaf, scalars: Mapping[str, Array]) -> Leaf:
        limit = scalars["limit"]
        held = jnp.clip(leaf.value(), -limit, limit)
        return leaf.settled()._replace(numerator=held)


@dataclass(frozen=True)
class ClipByNorm(_Clip):
    """Hold the norm of each parameter's gradient within limit."""

    sums: ClassVar[bool] = True
    verb: ClassVar[str] = "clip_by_norm"

    def apply(self, leaf: Leaf, scalars: Mapping[str, Array]) -> Leaf:
        factor = _factor(norm(leaf.value()), scalars["limit"])
        return leaf._replace(numerator=leaf.numerator * factor)


@dataclass(frozen=True)
class ClipByGlobalNorm(_Clip):
    """Hold the norm of all gradients together within limit."""

    eps: Hyperparameter

    reads_norm: ClassVar[bool] = True
    verb: ClassVar[str] = "clip_by_global_norm"

    def scalars(self, clock: Clock, look: Lookups) -> dict[str, Scalar]:
        return super().scalars(clock, look) | {"eps": self.eps.at(clock)}

    def norm_scalars(
        self, norm: Array, scalars: Mapping[str, Scalar]
    ) -> dict[str, Scalar]:
        if self.eps != Constant(0.0):
            norm = norm + scalars["eps"]
        return {"factor": _factor(norm, scalars["limit"])}

    def norm_after(self, norm: Array, scalars: Mapping[str, Scalar]) -> Array | None:
        return norm * scalars["factor"]

    def apply(self, leaf: Leaf, scalars: Mapping[str, Array]) -> Leaf:
        return leaf._replace(numerator=leaf.numerator * scalars["factor"])


def _factor(norm: Array, limit: Scalar) -> Array:
    """`min(1, limit / norm)`, and 1 for a norm that is not finite.

    One scalar, as XLA fuses a multiplication by it into every consumer; a division
    or a `where` on the arrays would be materialized.
    """
    above = (norm > limit) & jnp.isfinite(norm)
    return jnp.where(above, limit / jnp.where(above, norm, 1), 1)


@spelled
def clip_by_value(limit: ScalarOrSchedule) -> Transformation:
    """Hold every element of the gradients within `[-limit, limit]`.

        g = min(max(g, -limit), limit)

    NaN stays NaN. Keras's `clipvalue`, `optax.clip`.

    Args:
      limit: the largest magnitude, > 0, in units of the gradient.

    Returns:
      A transformation without buffers.

    Raises:
      ValueError, TypeError: at construction, for a limit that is not positive. (Keras
        takes 0 and negative limits in silence and does not clip.)

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.clip_by_value(0.5)
      >>> g = {"w": jnp.array([3.0, -0.25])}
      >>> tx.update(g, tx.init(g))[0]["w"].tolist()
      [0.5, -0.25]
    """
    return atom(ClipByValue(hyperparameter("limit", limit, POSITIVE, _REMEDY)))


@spelled
def clip_by_norm(limit: ScalarOrSchedule) -> Transformation:
    """Hold the Euclidean norm of each parameter's gradient within `limit`.

        g = g * min(1, limit / |g|)        for each parameter by itself

    The norm is formed in float32 and overflows only where it cannot be represented.
    A norm that is not finite limits nothing. Keras's `clipnorm`.

    Args:
      limit: the largest norm, > 0, in units of the gradient.

    Returns:
      A transformation without buffers.

    Raises:
      ValueError, TypeError: at construction, for a limit that is not positive.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.clip_by_norm(1.0)
      >>> g = {"w": jnp.array([3.0, 4.0]), "b": jnp.array([0.5])}
      >>> tx.update(g, tx.init(g))[0]["b"].tolist()
      [0.5]
    """
    return atom(ClipByNorm(hyperparameter("limit", limit, POSITIVE, _REMEDY)))


@spelled
def clip_by_global_norm(
    limit: ScalarOrSchedule, *, eps: ScalarOrSchedule = 0.0
) -> Transformation:
    """Hold the norm of all gradients together within `limit`.

        n = sqrt(sum over all parameters and elements of g^2)
        g = g * min(1, limit / (n + eps))

    The norm is summed in float32 (float64 where a parameter is) and overflows only
    where it cannot be represented. Where it is not finite it limits nothing: the
    element that caused it stays visible, and the other parameters are not turned into
    NaN (Keras) or zeros (Optax). A caller that knows the norm passes it as
    `update(..., grad_norm=n)`; it is used where nothing in the chain comes before.

    Source: Pascanu et al., arXiv 1211.5063, Algorithm 1; PyTorch's `clip_grad_norm_`
    and MLX's `clip_grad_norm` have eps = 1e-6.
    Differs from `optax.clip_by_global_norm`: one scalar factor instead of a division
    and a selection on every array, which saves a temporary of the gradients' size.

    Args:
      limit: the largest norm, > 0, in units of the gradient.
      eps: added to the norm, >= 0, in units of the gradient. Only to reproduce those
        who need it against a division by zero.

    Returns:
      A transformation without buffers.

    Raises:
      ValueError, TypeError: at construction, for a limit that is not positive.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.clip_by_global_norm(1.0)
      >>> g = {"w": jnp.array([3.0]), "b": jnp.array([4.0])}
      >>> tx.update(g, tx.init(g))[0]
      {'b': Array([0.8], dtype=float32), 'w': Array([0.6], dtype=float32)}
    """
    return atom(
        ClipByGlobalNorm(
            hyperparameter("limit", limit, POSITIVE, _REMEDY),
            hyperparameter("eps", eps, NON_NEGATIVE),
        )
    )
