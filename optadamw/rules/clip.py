"""Limits on gradients: by element, by parameter, over the whole tree."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from optadamw.base.hyperparameters import Clock, Constant, Hyperparameter
from optadamw.base.types import Array
from optadamw.rules.leaf import Leaf
from optadamw.rules.rule import Rule, Scalar, Shared, Stage

REMEDY = "Leave the clip out to switch it off."


@dataclass(frozen=True)
class _Clip(Rule):
    limit: Hyperparameter

    stage: ClassVar[Stage] = Stage.GRADIENT
    shrinks: ClassVar[bool] = True

    @property
    def latest(self) -> Stage:
        # A clip after Adam limits the direction, which is a known use too.
        return Stage.CAUTION

    def scalars(self, clock: Clock, shared: Shared) -> dict[str, Scalar]:
        del shared
        return {"limit": self.limit.at(clock)}


@dataclass(frozen=True)
class ClipByValue(_Clip):
    """Limit every element of the gradient to [-limit, limit]."""

    verb: ClassVar[str] = "clip_by_value"

    def apply(self, leaf: Leaf, scalars: Mapping[str, Array]) -> Leaf:
        limit = scalars["limit"]
        clipped = jnp.clip(leaf.value(), -limit, limit)
        return leaf.settled()._replace(numerator=clipped)


@dataclass(frozen=True)
class ClipByNorm(_Clip):
    """Limit the norm of each parameter's gradient."""

    sums: ClassVar[bool] = True
    sums_by_reductions: ClassVar[bool] = True
    verb: ClassVar[str] = "clip_by_norm"

    def apply(self, leaf: Leaf, scalars: Mapping[str, Array]) -> Leaf:
        factor = _factor(leaf.reductions.norm(leaf.value()), scalars["limit"])
        return leaf._replace(numerator=leaf.numerator * factor)


@dataclass(frozen=True)
class ClipByGlobalNorm(_Clip):
    """Limit the norm of all gradients together."""

    eps: Hyperparameter

    reads_norm: ClassVar[bool] = True
    verb: ClassVar[str] = "clip_by_global_norm"

    def scalars(self, clock: Clock, shared: Shared) -> dict[str, Scalar]:
        return super().scalars(clock, shared) | {"eps": self.eps.at(clock)}

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
    """Return `min(1, limit / norm)`, and 1 for a norm that is not finite.

    The factor is one scalar, because XLA fuses a multiplication by a scalar into every
    consumer; a division or a `where` on the arrays would be materialized.
    """
    above = (norm > limit) & jnp.isfinite(norm)
    return jnp.where(above, limit / jnp.where(above, norm, 1), 1)
