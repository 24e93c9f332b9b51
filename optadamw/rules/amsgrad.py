"""AMSGrad's maximum of the second moment (Reddi et al., arXiv 1904.09237)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp

from optadamw.base.errors import misplaced
from optadamw.base.hyperparameters import Clock
from optadamw.base.types import Array
from optadamw.rules.leaf import Leaf
from optadamw.rules.rule import Rule, Scalar, Shared, Stage
from optadamw.store.slot import Slot
from optadamw.store.store import Storage


@dataclass(frozen=True)
class Maximum(Rule):
    """Let the direction divide by the largest second moment so far."""

    kind: Literal["raw", "corrected"]
    nu_max: Storage

    stage: ClassVar[Stage] = Stage.MAXIMUM
    verb: ClassVar[str] = "amsgrad_max"

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (Slot("nu_max", self.nu_max),)

    def placed(self, before: tuple[Rule, ...], after: tuple[Rule, ...]) -> None:
        adam = [rule for rule in before if rule.stage == Stage.MOMENTS]
        if not adam or not after or after[0].stage != Stage.DIRECTION:
            raise misplaced(
                "amsgrad_max keeps the maximum of Adam's second moment, and no "
                "scale_by_adam stands right before it in its chain.",
                "Write optadamw.chain(scale_by_adam(...), amsgrad_max(), ...).",
            )
        hat = getattr(after[0], "eps_mode", None) == "hat"
        if hat and self.kind == "corrected":
            raise misplaced(
                "amsgrad_max('corrected') divides by the corrected moment, "
                "eps_mode='hat' by the raw one.",
                "Use amsgrad_max('raw') or eps_mode='outside'.",
            )

    def scalars(self, clock: Clock, shared: Shared) -> dict[str, Scalar]:
        if self.kind == "raw":
            return {}
        return {"nu_scale": jnp.ones((), clock.dtype) / shared("remaining_nu")}

    def apply(self, leaf: Leaf, scalars: Mapping[str, Array]) -> Leaf:
        nu = leaf.second
        assert nu is not None
        if self.kind == "corrected":
            nu = nu * scalars["nu_scale"]
        nu_max = jnp.maximum(leaf.buffers["nu_max"], nu)
        corrected = self.kind == "corrected"
        leaf = leaf._replace(second=nu_max, second_is_corrected=corrected)
        return leaf.keeping(nu_max=nu_max)
