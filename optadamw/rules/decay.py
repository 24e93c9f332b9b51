"""Decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101v3, Algorithm 2).

With s the share by which a step shrinks the parameter p, `-s p` is added to the
update, and p is never multiplied by `1 - s`: in float32 that factor is rounded, and for
s = 1e-5 the parameter is off by 1.4e-4 after 1e4 steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from optadamw.base.errors import misplaced
from optadamw.base.hyperparameters import Clock, Constant, Hyperparameter
from optadamw.base.masks import Selector
from optadamw.base.numerics import counts_as_zero
from optadamw.base.types import Array
from optadamw.rules.leaf import Leaf
from optadamw.rules.rule import Rule, Scalar, Shared, Stage

DecayMode = Literal["lr", "schedule", "independent", "corrected"]


@dataclass(frozen=True)
class Decay(Rule):
    """Shrink a parameter towards zero, without a change to gradient or moments."""

    weight_decay: Hyperparameter
    mode: DecayMode
    max_learning_rate: Hyperparameter | None
    where: Selector
    cautious: Literal[True] | None = None
    """True: only where the direction has the parameter's sign; None (default): all."""

    stage: ClassVar[Stage] = Stage.DECAY
    needs_params: ClassVar[bool] = True
    verb: ClassVar[str] = "add_decoupled_weight_decay"

    @property
    def selector(self) -> Selector | None:
        return self.where

    def placed(self, before: tuple[Rule, ...], after: tuple[Rule, ...]) -> None:
        del before
        if self.mode == "lr":
            return
        rates = [rule for rule in after if rule.stage == Stage.RATE]
        if not rates:
            raise misplaced(
                f"{self.verb} with the mode {self.mode!r} must see the learning rate, "
                "and its chain has none.",
                "Put scale_by_learning_rate after it in the same optadamw.chain.",
            )
        rate = getattr(rates[0], "learning_rate", None)
        scaled = self.mode in ("schedule", "corrected")
        known = isinstance(rate, Constant) or self.max_learning_rate is not None
        if scaled and not known:
            raise ValueError(
                f"`max_learning_rate` is missing: the decay mode {self.mode!r} divides "
                f"by the peak of the learning rate, which is unknown for {rate!r}. "
                "Give it, for example max_learning_rate=1e-3."
            )

    def scalars(self, clock: Clock, shared: Shared) -> dict[str, Scalar]:
        weight_decay = self.weight_decay.at(clock)
        if not shared.has("learning_rate"):
            # Mode "lr" without a rate in this chain: positive, as a later part of an
            # optax.chain multiplies the whole update by -learning_rate.
            return {"share": weight_decay}
        learning_rate = shared("learning_rate")
        match self.mode:
            case "lr":
                shrinkage = learning_rate * weight_decay
            case "schedule":
                shrinkage = self._multiplier(learning_rate, clock) * weight_decay
            case "independent":
                shrinkage = weight_decay
            case "corrected":
                multiplier = self._multiplier(learning_rate, clock)
                shrinkage = learning_rate * multiplier * weight_decay
        return {"step_share": -shrinkage}

    def report(self, clock: Clock, shared: Shared) -> dict[str, Scalar]:
        del shared
        return {"weight_decay": self.weight_decay.at(clock)}

    def _multiplier(self, learning_rate: Scalar, clock: Clock) -> Scalar:
        """The paper's eta_t: the learning rate over its peak.

        1 if no peak was given: the learning rate is then a constant.
        """
        if self.max_learning_rate is None:
            return 1.0
        return learning_rate / self.max_learning_rate.at(clock)

    def apply(self, leaf: Leaf, scalars: Mapping[str, Array]) -> Leaf:
        assert leaf.param is not None
        rate_is_due = "step_share" in scalars
        share = scalars["step_share" if rate_is_due else "share"]
        chosen = share
        if self.cautious:
            chosen = jnp.where(_opposed(leaf, leaf.param), 0.0, share)
        drift = _drift(share, chosen, leaf.param)
        if leaf.drift is not None:
            drift = leaf.drift + drift
        return leaf._replace(drift=drift, rate_is_due=rate_is_due)


@jax.custom_jvp
def _drift(share: Array, chosen: Array, param: Array) -> Array:
    """Return `chosen * param`; without decay the product with 1, which adds nothing.

    0 times an infinite parameter would be NaN. An operand is selected and not the
    product: LLVM contracts a selected product with the sum behind it in some programs
    only. The derivative is that of the product also where the share is 0, from which a
    decay may be learned.

    Args:
      share: the factor of all parameters, a scalar.
      chosen: the share, or 0 where a cautious decay leaves a parameter alone.
      param: the parameter.
    """
    return chosen * jnp.where(share == 0, 1.0, param)


@_drift.defjvp
def _drift_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (share, chosen, param), (_, d_chosen, d_param) = primals, tangents
    # Infinity times a tangent of 0 would be NaN. Symbolic zeros would tell such
    # tangents apart, but Pallas does not lower them for a TPU (jax 0.10 to 0.12).
    largest = jnp.finfo(param.dtype).max
    change = d_chosen * jnp.clip(param, -largest, largest) + chosen * d_param
    return _drift(share, chosen, param), change


def _opposed(leaf: Leaf, param: Array) -> Array:
    """Return where the step moves a parameter away from zero.

    Chen et al., arXiv 2510.12402v2, Algorithm 1: the decay is multiplied by the
    indicator of u x >= 0, with u the direction and x the parameter.
    """
    # Not the product, which underflows: 1e-25 * 1e-25 is 0 in float32. Nor `sign`, of
    # which Pallas asks the kind of the TPU: a step could not be exported from a CPU.
    direction = leaf.numerator
    opposed = ((direction < 0) & (param > 0)) | ((direction > 0) & (param < 0))
    if leaf.denominator is None:
        return opposed
    # A direction over a denominator of zero is zero (`numerics.quotient`).
    return opposed & ~counts_as_zero(leaf.denominator)
