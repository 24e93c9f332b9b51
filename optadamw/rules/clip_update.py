"""The clip of the update (Wortsman et al., arXiv 2304.13013, Algorithm 2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from optadamw.base.errors import misplaced
from optadamw.base.hyperparameters import Clock, Hyperparameter
from optadamw.base.numerics import sqrt
from optadamw.base.types import Array
from optadamw.rules.leaf import Leaf
from optadamw.rules.rule import Rule, Scalar, Shared, Stage


@dataclass(frozen=True)
class ClipUpdate(Rule):
    """Shrink the update of a parameter whose gradient is large for its moment."""

    limit: Hyperparameter
    keeps_decay: bool = False
    """Whether a weight decay that stands before stays as it is."""

    stage: ClassVar[Stage] = Stage.CAUTION
    latest: ClassVar[Stage] = Stage.DECAY
    sums: ClassVar[bool] = True
    sums_by_reductions: ClassVar[bool] = True
    once: ClassVar[bool] = True
    verb: ClassVar[str] = "clip_update_by_rms"

    def placed(self, before: tuple[Rule, ...], after: tuple[Rule, ...]) -> None:
        del after
        directions = [rule for rule in before if rule.stage == Stage.DIRECTION]
        if not directions:
            raise misplaced(
                f"{self.verb} compares the gradient with the root of Adam's second "
                "moment, and no scale_by_adam stands before it in its chain.",
                f"Write optadamw.chain(scale_by_adam(...), {self.verb}(), ...).",
            )
        if getattr(directions[0], "eps_mode", None) == "hat":
            raise misplaced(
                f"{self.verb} needs the root of the corrected second moment, and "
                "eps_mode='hat' divides by that of the uncorrected one.",
                "Use eps_mode='outside'.",
            )

    def scalars(self, clock: Clock, shared: Shared) -> dict[str, Scalar]:
        del shared
        return {"limit": self.limit.at(clock)}

    def leaf_scalars(
        self, leaf: Leaf, scalars: Mapping[str, Array]
    ) -> dict[str, Array]:
        if leaf.denominator is None:
            raise misplaced(
                f"{self.verb} divides by the root of Adam's second moment, and a part "
                "between scale_by_adam and it, such as clip_by_value, hides it.",
                f"Put {self.verb} before that part.",
            )
        # At most sqrt(1 / (1 - b2)), so that no square overflows: v >= (1 - b2) g^2.
        ratio = leaf.over_denominator(leaf.gradient)
        rms = sqrt(leaf.reductions.mean_of_squares(ratio))
        # A gradient that is not finite spoils its own element and clips no other.
        rms = jnp.where(jnp.isfinite(rms), rms, 0)
        # The larger of the two as the divisor: a factor of exactly 1 below the limit.
        return {"factor": scalars["limit"] / jnp.maximum(rms, scalars["limit"])}

    def apply(self, leaf: Leaf, scalars: Mapping[str, Array]) -> Leaf:
        factor = scalars["factor"]
        numerator = leaf.numerator * factor
        if leaf.drift is None or self.keeps_decay:
            return leaf._replace(numerator=numerator)
        return leaf._replace(numerator=numerator, drift=leaf.drift * factor)
