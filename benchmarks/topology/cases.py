"""The steps that are compiled, and the fewest bytes with which each can be done."""

import dataclasses
from typing import Any, NamedTuple

import jax

from benchmarks.contenders import optadamw_adamw, optax_adamw
from benchmarks.contenders.contender import Contender
from benchmarks.topology.placed import count, size
from benchmarks.workloads import Config


class Case(NamedTuple):
    """A step to compile.

    Attributes:
        contender: Whose step.
        config: Of which configuration.
        norm: How often it reads the gradients for their norm, before the step does.
        goal: The most bytes per parameter, as a multiple of the ideal; None: no goal.
    """

    contender: Contender
    config: Config
    norm: int = 0
    goal: float | None = 1.0

    def ideal(self, carry: Any, gradients: Any) -> float:
        """The fewest bytes per parameter: all is read once and written once.

        A step that ends a window adds the last gradient to the accumulator first, and
        then reads the accumulator in place of the gradient.
        """
        read = size(gradients) * (1 + self.norm)
        if self.config.accumulate_steps is not None:
            read += size(gradients)
        return (2 * size(carry) + read) / count(gradients)


def _ours(*parts: str, norm: int = 0, goal: float | None = 1.0) -> Case:
    contender = optadamw_adamw.with_parts(*parts)
    return Case(contender, contender.own(Config()), norm, goal)


def _optax(norm: int = 0, dtype: str = "float32", **changes: Any) -> Case:
    contender = dataclasses.replace(optax_adamw.CONTENDER, dtype=dtype)
    return Case(contender, Config(**changes), norm, None)


APART = ("clip, reproducible",)
"""Cases with results of their own, which docs/guides/sharding.md shows."""

_CLIP: dict[str, Any] = {"clip_global_norm": 1.0}
CASES: dict[str, Case] = {
    "adamw": _ours(),
    "adamw, Optax": _optax(),
    "clip": _ours("clip", norm=1),
    "clip, Optax": _optax(norm=1, **_CLIP),
    "clip, reproducible": _ours("clip", "reproducible", norm=2),
    "clip + EMA": _ours("clip", "ema", norm=1),
    "clip + EMA, Optax": _optax(norm=1, ema_decay=0.999, **_CLIP),
    "AMSGrad": _ours("amsgrad"),
    "guard": _ours("guard", norm=1),
    "guard + clip + EMA": _ours("guard", "clip", "ema", norm=1),
    "guard, apply_if_finite": _optax(norm=1, guard=True),
    "window of 4": _ours("accumulate"),
    "window of 4, MultiSteps": _optax(accumulate_steps=4),
    "mixed": _ours("mixed"),
    "mixed, 24 bits": _ours("mixed24"),
    "kahan": _ours("kahan"),
    "commit stochastic": _ours("stochastic"),
    "16-bit moments": _ours("16bit"),
    "8-bit moments": _ours("8bit", norm=1, goal=1.3),
    "compact": _ours("compact", norm=1, goal=1.3),
    "compact + clip + EMA": _ours("compact", "clip", "ema", norm=1, goal=1.3),
    "compact, 24 bits": _ours("compact24", norm=1, goal=1.3),
    "16-bit moments, stated": _ours("16bit", "stated"),
    "8-bit moments, stated": _ours("8bit", "stated", norm=1),
    "compact, stated": _ours("compact", "stated", norm=1),
    "bfloat16, Optax": _optax(dtype="bfloat16"),
}


def shapes(quick: bool) -> dict[str, jax.ShapeDtypeStruct]:
    """Four leaves of 67M, or one if quick: no core's memory holds such a leaf."""
    leaf = jax.ShapeDtypeStruct((8192, 8192), "float32")
    return {f"kernel_{i}": leaf for i in range(1 if quick else 4)}
