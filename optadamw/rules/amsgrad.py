"""AMSGrad's maximum of the second moment (Reddi et al., arXiv 1904.09237)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp

from optadamw.base.errors import invalid, misplaced
from optadamw.base.hyperparameters import Clock
from optadamw.base.types import Array
from optadamw.rules.rule import Leaf, Lookups, Rule, Scalar, Slot, Stage
from optadamw.store.formats import Stored, maximum
from optadamw.store.store import Storage
from optadamw.transforms.transformation import Transformation, atom, spelled


@dataclass(frozen=True)
class Maximum(Rule):
    """The direction divides by the largest second moment seen so far."""

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

    def scalars(self, clock: Clock, look: Lookups) -> dict[str, Scalar]:
        if self.kind == "raw":
            return {}
        return {"nu_scale": jnp.ones((), clock.dtype) / look("remaining_nu")}

    def apply(self, leaf: Leaf, scalars: Mapping[str, Array]) -> Leaf:
        nu = leaf.second
        assert nu is not None
        if self.kind == "corrected":
            nu = nu * scalars["nu_scale"]
        nu_max = jnp.maximum(leaf.buffers["nu_max"], nu)
        corrected = self.kind == "corrected"
        leaf = leaf._replace(second=nu_max, second_is_corrected=corrected)
        return leaf.keeping(nu_max=nu_max)


@spelled
def amsgrad_max(
    kind: Literal["raw", "corrected"] = "raw", *, dtype: Stored | None = None
) -> Transformation:
    """Let Adam divide by the maximum of its second moments.

        raw:        v~ = max(v~, v),               used in place of v
        corrected:  v~ = max(v~, v / (1 - b2^t)),  used as it is

    It modifies the `scale_by_adam` that it follows in `optadamw.chain`; alone it has
    no second moment and is refused.

    Source: arXiv 1904.09237, Algorithm 2. "raw", with the bias correction applied to
    the maximum, is what PyTorch, Keras and TensorFlow do; "corrected" is Optax's.
    The two maxima are different numbers: a state of one is not a state of the other.

    Args:
      kind: which second moment the maximum is of.
      dtype: how the maximum is kept: what `nu_dtype` of `scale_by_adam` takes, always
        rounded to nearest, as a maximum of random roundings would climb. (That of a
        `nu` which is itself rounded at random climbs all the same, with its noise:
        over 10,000 steps of a stationary gradient to 1.05 times what it is in
        float32 on average in stochastic bfloat16, to 1.35 in 8 bits.) None: float32
        (float64 for float64 parameters).

    Returns:
      A transformation that adds `nu_max` (as `nu`) to the state.

    Raises:
      ValueError, TypeError: at construction, for another `kind` or `dtype`, or
        without `scale_by_adam`.

    Example:
      >>> import optadamw
      >>> tx = optadamw.chain(optadamw.scale_by_adam(), optadamw.amsgrad_max())
    """
    if kind not in ("raw", "corrected"):
        raise invalid("kind", "'raw' or 'corrected'", kind)
    return atom(Maximum(kind, maximum("dtype", dtype)))
