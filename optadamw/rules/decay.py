"""Decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101v3, Algorithm 2).

The shrinkage is added as `-s p` and never multiplied as `p (1 - s)`: the factor
rounds, and over 1e4 steps with s = 1e-5 float32 drifts by 1.4e-4 that way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp

from optadamw.base.errors import invalid, misplaced
from optadamw.base.hyperparameters import (
    NON_NEGATIVE,
    POSITIVE,
    Clock,
    Constant,
    Hyperparameter,
    hyperparameter,
)
from optadamw.base.masks import Selector, selector
from optadamw.base.types import Array, ScalarOrSchedule
from optadamw.rules.rule import Leaf, Lookups, Rule, Scalar, Stage
from optadamw.transforms.transformation import Transformation, atom, spelled

DecayMode = Literal["lr", "schedule", "independent", "corrected"]


@dataclass(frozen=True)
class Decay(Rule):
    """Pull a parameter towards zero, beside the gradient and not through it."""

    weight_decay: Hyperparameter
    mode: DecayMode
    max_learning_rate: Hyperparameter | None
    where: Selector

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
                f"by the peak of the learning rate, which {rate!r} does not tell. Give "
                "it, for example max_learning_rate=1e-3."
            )

    def scalars(self, clock: Clock, look: Lookups) -> dict[str, Scalar]:
        weight_decay = self.weight_decay.at(clock)
        if not look.has("learning_rate"):
            # Alone, in mode "lr": what follows multiplies by -learning_rate.
            return {"drift": weight_decay}
        learning_rate = look("learning_rate")
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
        return {"drift": -shrinkage}

    def report(self, clock: Clock, look: Lookups) -> dict[str, Scalar]:
        del look
        return {"weight_decay": self.weight_decay.at(clock)}

    def _multiplier(self, learning_rate: Scalar, clock: Clock) -> Scalar:
        """The paper's schedule multiplier; 1 for a constant learning rate."""
        if self.max_learning_rate is None:
            return 1.0
        return learning_rate / self.max_learning_rate.at(clock)

    def apply(self, leaf: Leaf, scalars: Mapping[str, Array]) -> Leaf:
        assert leaf.param is not None
        # No decay adds negative zero, which leaves a parameter of -0.0 as it is.
        shrinkage = scalars["drift"]
        drift = jnp.where(shrinkage == 0, -0.0, shrinkage * leaf.param)
        return leaf._replace(drift=drift if leaf.drift is None else leaf.drift + drift)


@spelled
def add_decoupled_weight_decay(
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Any = None,
    *,
    mode: DecayMode = "lr",
    max_learning_rate: ScalarOrSchedule | None = None,
) -> Transformation:
    """Shrink parameters by a share of themselves, apart from the gradient.

    With p the parameter before the step, a the learning rate of this step and w the
    weight decay, `-s p` is added to the update, with

        "lr":           s = a w                       PyTorch, Keras, Optax
        "schedule":     s = (a / max_learning_rate) w   the paper, optimi
        "independent":  s = w                         TensorFlow Addons
        "corrected":    s = a (a / max_learning_rate) w   AdamC, timm

    It stands after `scale_by_adam` and before `scale_by_learning_rate`; any other
    place would mean something else (before Adam it is L2 regularization, normalized
    away; after the rate its sign is wrong) and is refused. In all modes but "lr" the
    learning rate must be in the same `optadamw.chain`, where it can be seen.

    Source: arXiv 1711.05101v3, Algorithm 2, line 12; "corrected": Defazio,
    arXiv 2506.02285.

    Args:
      weight_decay: >= 0; per unit of learning rate ("lr", "corrected") or per step
        ("schedule", "independent"). A schedule sees finished optimizer steps.
      mask: which parameters are decayed: a pattern such as `"*/kernel"`, a list of
        patterns, a predicate `(path, array) -> bool`, Optax's `params -> tree`, or a
        tree of bools. None: all.
      mode: see above.
      max_learning_rate: the peak of the learning rate's schedule, > 0, for "schedule"
        and "corrected"; None takes the learning rate where that is a plain number.

    Returns:
      A transformation without buffers.

    Raises:
      ValueError, TypeError: at construction for a bad argument; when traced, for a
        pattern that matches nothing or parameters that were not passed.

    Example:
      >>> import optadamw
      >>> tx = optadamw.chain(
      ...     optadamw.scale_by_adam(),
      ...     optadamw.add_decoupled_weight_decay(0.1, mask="*/kernel"),
      ...     optadamw.scale_by_learning_rate(1e-3),
      ... )
    """
    modes = ("lr", "schedule", "independent", "corrected")
    if mode not in modes:
        raise invalid("mode", f"one of {', '.join(map(repr, modes))}", mode)
    scaled = mode in ("schedule", "corrected")
    if max_learning_rate is not None and not scaled:
        raise ValueError(
            f"`max_learning_rate` has no meaning with the decay mode {mode!r}; got "
            f"{max_learning_rate!r}. Leave it out, or use 'schedule' or 'corrected'."
        )
    peak = None
    if max_learning_rate is not None:
        peak = hyperparameter("max_learning_rate", max_learning_rate, POSITIVE)
    remedy = "Use 0.0 for no decay."
    return atom(
        Decay(
            weight_decay=hyperparameter(
                "weight_decay", weight_decay, NON_NEGATIVE, remedy
            ),
            mode=mode,
            max_learning_rate=peak,
            where=selector("mask", mask),
        )
    )
