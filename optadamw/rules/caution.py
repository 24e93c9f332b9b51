"""Cautious updates (Liang et al., arXiv 2411.16085, Algorithm 2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from optadamw.base.errors import misplaced
from optadamw.base.types import Array
from optadamw.rules.leaf import Leaf
from optadamw.rules.rule import Rule, Stage


@dataclass(frozen=True)
class Caution(Rule):
    """Zero the elements of the direction whose sign differs from the gradient's."""

    stage: ClassVar[Stage] = Stage.CAUTION
    sums: ClassVar[bool] = True
    sums_by_reductions: ClassVar[bool] = True
    once: ClassVar[bool] = True
    verb: ClassVar[str] = "cautious"

    def placed(self, before: tuple[Rule, ...], after: tuple[Rule, ...]) -> None:
        del after
        if not any(rule.stage == Stage.DIRECTION for rule in before):
            raise misplaced(
                "cautious compares Adam's direction with the gradient, and no "
                "scale_by_adam stands before it in its chain.",
                "Write optadamw.chain(scale_by_adam(...), cautious(), ...).",
            )

    def apply(self, leaf: Leaf, scalars: Mapping[str, Array]) -> Leaf:
        del scalars
        # Signs, not the product, which underflows: 1e-25 * 1e-25 is 0 in float32.
        agrees = jnp.sign(leaf.numerator) * jnp.sign(leaf.gradient) > 0
        share = leaf.reductions.share_of(agrees, leaf.numerator.dtype)
        scale = 1 / jnp.maximum(share, 1e-3)
        cautious = jnp.where(agrees, leaf.numerator * scale, 0)
        return leaf._replace(numerator=cautious)
