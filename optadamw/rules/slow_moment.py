"""AdEMAMix's second, slow mean of the gradients (arXiv 2409.03137, Algorithm 1).

    m2_t = b3 m2_{t-1} + (1 - b3) g_t
    d_t  = (m^ + alpha m2_t) / (sqrt(v^) + eps)

The slow mean has no bias correction: it fills slowly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from optadamw.base.errors import misplaced
from optadamw.base.hyperparameters import Clock, Hyperparameter
from optadamw.base.means import mean_form, running_mean
from optadamw.base.types import Array
from optadamw.rules.leaf import Leaf
from optadamw.rules.rule import Forms, Rule, Scalar, Shared, Stage
from optadamw.store.slot import Slot
from optadamw.store.store import Storage


@dataclass(frozen=True)
class SlowMoment(Rule):
    """Add a slow mean of the gradients to the numerator of Adam's direction."""

    b3: Hyperparameter
    alpha: Hyperparameter
    mu_slow: Storage

    stage: ClassVar[Stage] = Stage.CAUTION
    latest: ClassVar[Stage] = Stage.DIRECTION
    forms: ClassVar[Forms] = {"b3": mean_form}
    verb: ClassVar[str] = "add_slow_moment"

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (Slot("mu_slow", self.mu_slow),)

    def placed(self, before: tuple[Rule, ...], after: tuple[Rule, ...]) -> None:
        del after
        if not before or before[-1].stage != Stage.DIRECTION:
            raise misplaced(
                f"{self.verb} adds to the first moment of Adam's direction, and no "
                "scale_by_adam stands right before it in its chain.",
                f"Write optadamw.chain(scale_by_adam(...), {self.verb}(...), ...).",
            )
        if getattr(before[-1], "eps_mode", None) == "hat":
            raise misplaced(
                f"{self.verb} divides its mean by the root of the corrected second "
                "moment, and eps_mode='hat' divides by that of the uncorrected one.",
                "Use eps_mode='outside'.",
            )

    def scalars(self, clock: Clock, shared: Shared) -> dict[str, Scalar]:
        del shared
        b3 = self.b3.at(clock)
        return {"b3": b3, "one_minus_b3": 1.0 - b3, "alpha": self.alpha.at(clock)}

    def apply(self, leaf: Leaf, scalars: Mapping[str, Array]) -> Leaf:
        b3, one_minus_b3 = scalars["b3"], scalars["one_minus_b3"]
        slow, form = leaf.buffers["mu_slow"], mean_form(self.b3)
        slow = running_mean(slow, leaf.gradient, b3, one_minus_b3, form)
        numerator = leaf.numerator + scalars["alpha"] * slow
        return leaf._replace(numerator=numerator).keeping(mu_slow=slow)
