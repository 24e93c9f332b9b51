"""Plans: the implementations, configurations, trees and measurements of a run."""

import dataclasses
from typing import Literal

from benchmarks import contenders
from benchmarks.workloads import CONFIGS, TREES

Part = Literal["steps", "compilation", "memory"]
Call = Literal["every", "accumulating", "applying"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The measurements of a configuration, unless the command line asks for fewer.

    Attributes:
        contenders: Who takes part; who is ours comes first.
        trees: On which trees.
        parts: The times of steps; the times and memory of compilation; or the memory
            alone, from one compilation.
        timed: Which calls of a window are timed; the others run between them.
    """

    contenders: tuple[str, ...] = (
        *("optadamw", "optadamw+native", "optadamw+xla", "optadamw-update"),
        *("optax", "keras", "torch"),
    )
    trees: tuple[str, ...] = tuple(TREES)
    parts: tuple[Part, ...] = ("steps", "compilation")
    timed: Call = "every"

    def times(self, call: int, window: int) -> bool:
        """Whether a call is timed, of those counted from 0 since the start."""
        match self.timed:
            case "every":
                return True
            case "accumulating":
                return call % window < window - 1
            case "applying":
                return call % window == window - 1


# Everything that may stand around a step: alone, in pairs that share a norm, a loop or
# a buffer, and all of it.
_COMBINATIONS = (
    "clip+ema",
    "guard",
    "stats",
    "guard+stats",
    "guard+clip+stats",
    "guard+clip+amsgrad+ema+stats",
    "spikes",
    "spikes+clip+ema+stats",
    "static",
    "static+guard+clip",
    "dynamic",
    "dynamic+clip+ema+stats",
    "accumulate",
    "accumulate+clip+amsgrad+ema+stats",
    "accumulate+static",
    "accumulate+drop",
    "accumulate+drop+clip+ema+stats",
    "accumulate+drop+dynamic",
    "accumulate+drop+spikes",
    "accumulate+abort",
    "accumulate+abort+clip+ema+stats",
    "accumulate+abort+dynamic",
    "accumulate+abort+spikes",
    "clip+ema+all",
    "accumulate+drop+clip+ema+all",
    "accumulate+abort+clip+ema+all",
    "guard+clip+norms",
    "accumulate+drop+clip+ema+all+norms",
)

# Moments or parameters below float32; those named "native" are promised more.
ROUNDED = (
    *("optadamw+8bit", "optadamw+16bit", "optadamw+stochastic"),
    *("optadamw+kahan", "optadamw+mixed", "optadamw+compact"),
    *("optadamw+8bit+xla", "optadamw+compact+xla"),
)

PLANS = {
    **dict.fromkeys(("adamw", "clip", "clip-ema", "amsgrad"), Plan()),
    "accumulate": Plan(
        contenders=(
            *("optadamw", "optadamw+abort", "optadamw+drop"),
            *("add", "set-or-add", "optax", "keras", "torch"),
        ),
        trees=("large",),
        parts=("steps", "memory"),
        timed="accumulating",
    ),
    "apply": Plan(
        contenders=(
            *("optadamw+abort", "optadamw+abort+native", "optadamw+abort+xla"),
            *("optadamw+drop", "optadamw+bare"),
            *("read", "set-or-add", "optax"),
        ),
        trees=("large",),
        parts=("steps", "memory"),
        timed="applying",
    ),
    "guard": Plan(
        contenders=(
            *("optadamw", "optadamw+guard", "optadamw+guard+stats"),
            "optadamw+guard+norms",
        ),
        trees=("large",),
        parts=("steps", "memory"),
    ),
    "memory": Plan(
        contenders=("optadamw", *(f"optadamw+{parts}" for parts in _COMBINATIONS)),
        trees=("large",),
        parts=("memory",),
    ),
    "precision": Plan(
        contenders=(
            *("optadamw", "optadamw+native", "optadamw+xla", "optadamw+guard"),
            *ROUNDED,
            *("optadamw+8bit+native", "optadamw+compact+native"),
        ),
        trees=("large",),
        parts=("steps", "memory"),
    ),
    "clip-ema-guard": Plan(
        contenders=("optadamw", "optadamw+native", "optadamw+xla", "optax"),
        trees=("small",),
        parts=("compilation",),
    ),
    "everything": Plan(
        contenders=(
            "optadamw+abort",
            "optadamw+abort+all",
            "optadamw+drop+all",
            "optax",
        ),
        trees=("small",),
        parts=("compilation",),
    ),
}
assert PLANS.keys() == CONFIGS.keys()

# Everyone who takes part in something, each once.
CONTENDERS = tuple(
    dict.fromkeys(
        (
            *contenders.NAMES,
            *(name for plan in PLANS.values() for name in plan.contenders),
        )
    )
)
