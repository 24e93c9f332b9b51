"""The promised ratios as data, and a check of measured cases against them."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from benchmarks import interference, plans
from benchmarks.ratios import Spread, per_round

Metric = Literal["step_s", "trace_s", "lower_s", "compile_s", "build_s", "temporaries"]
_PHASES: tuple[Metric, ...] = ("trace_s", "lower_s", "compile_s")
_LABELS = {
    "step_s": "step time",
    "trace_s": "trace time",
    "lower_s": "lowering time",
    "compile_s": "compile time",
    "build_s": "trace + lower + compile",
    "temporaries": "temporaries",
}


@dataclasses.dataclass(frozen=True)
class Target:
    """A limit, on the CPU at full size.

    Attributes:
        metric: A time, as a ratio to that of `against`; or the bytes of temporaries, as
            a fraction of the parameters' bytes.
        limit: The largest value that meets the target; None: nothing is promised, and
            the figure is reported.
        contender: Whose figure is judged; of several, the largest temporaries.
        against: The contender it is divided by, or those whose sum it is divided by.
        tree: The tree it is promised for; None is every tree.
        config: The configurations likewise.
        called: What several contenders are called together.
    """

    metric: Metric
    limit: float | None
    contender: str | tuple[str, ...] = "optadamw"
    against: tuple[str, ...] = ()
    tree: str | None = None
    config: tuple[str, ...] | None = None
    called: str | None = None

    def __str__(self) -> str:
        """Writes the target as it is printed: what, of whom, at most how much."""
        of = " + ".join(self.against) or "parameters"
        of = f"({of})" if len(self.against) > 1 else of
        limit = "" if self.limit is None else f" <= {self.limit:g}"
        return f"{_LABELS[self.metric]}, {self.called or self.contender} / {of}{limit}"


_STEPS = tuple(name for name in plans.CONTENDERS if name.startswith("optadamw"))
# On the CPU the norms of the update and of the parameters take a temporary of the
# parameters' size: known, not promised otherwise, and shown.
_WITH_NORMS = tuple(name for name in _STEPS if name.endswith("norms"))
_WITHOUT = tuple(n for n in _STEPS if n not in (*_WITH_NORMS, *plans.ROUNDED))
_PLAIN = ("adamw", "clip", "clip-ema", "amsgrad")


def _on_large(
    config: str, contender: str, limit: float | None, *against: str
) -> Target:
    return Target("step_s", limit, contender, against, "large", (config,))


def _to_build(contender: str) -> Target:
    return Target("build_s", 0.35, contender, ("optax",), "small", ("everything",))


# A step by kernels, against PyTorch's fused kernel and Optax doing the same work.
_BY_KERNELS = {
    "adamw": (1.0, 0.62),
    "clip": (0.80, 0.32),
    "clip-ema": (0.75, 0.35),
    "amsgrad": (1.05, 0.65),
}
_NATIVE = "optadamw+native"


def _by_kernels(tree: str, are_promised: bool) -> Iterator[Target]:
    for config, limits in _BY_KERNELS.items():
        for peer, limit in zip(("torch", "optax"), limits, strict=True):
            kept = limit if are_promised else None
            yield Target("step_s", kept, _NATIVE, (peer,), tree, (config,))


def _to_build_by_kernels(config: str, limit: float) -> Target:
    return Target("build_s", limit, _NATIVE, ("optax",), "small", (config,))


TARGETS = (
    Target("step_s", 0.45, against=("optax",), tree="large", config=("clip-ema",)),
    Target("step_s", 1.0, against=("keras",), tree="large", config=("clip-ema",)),
    Target("step_s", 1.0, against=("torch",), tree="large", config=("clip-ema",)),
    Target("step_s", 1.0, against=("optax",), config=("adamw",)),
    Target("temporaries", 0.01, _WITHOUT, called="optadamw at most"),
    Target("temporaries", None, _WITH_NORMS, called="optadamw with norms at most"),
    # The CPU pays for codes and random bits in arithmetic; nothing is promised there.
    *(_on_large("precision", name, None, "optadamw") for name in plans.ROUNDED),
    Target("trace_s", 0.30, against=("optax",), tree="small", config=_PLAIN),
    Target("lower_s", 1.0, against=("optax",), tree="small", config=_PLAIN),
    Target("compile_s", 1.0, against=("optax",), tree="small", config=_PLAIN),
    # To give up a window costs nothing until it is full. To drop a micro-batch alone,
    # each must be looked at before it is added: another read.
    _on_large("accumulate", "optadamw", 1.25, "add"),
    _on_large("accumulate", "optadamw+abort", 1.25, "add"),
    _on_large("accumulate", "optadamw+drop", None, "add"),
    _on_large("accumulate", "optadamw", None, "set-or-add"),
    _on_large("accumulate", "optadamw+abort", None, "set-or-add"),
    _on_large("accumulate", "optadamw+drop", None, "set-or-add"),
    _on_large("accumulate", "optadamw", 0.08, "optax"),
    _on_large("accumulate", "optadamw+abort", 0.08, "optax"),
    _on_large("accumulate", "optadamw+drop", 0.08, "optax"),
    _on_large("accumulate", "optadamw", 0.08, "keras"),
    _on_large("accumulate", "optadamw+abort", 0.08, "keras"),
    _on_large("accumulate", "optadamw+drop", 0.08, "keras"),
    _on_large("apply", "optadamw+abort", 1.15, "optadamw+bare", "read"),
    _on_large("apply", "optadamw+drop", None, "optadamw+bare", "read"),
    _on_large("apply", "optadamw+abort", None, "optadamw+bare", "set-or-add"),
    _on_large("apply", "optadamw+drop", None, "optadamw+bare", "set-or-add"),
    _on_large("apply", "optadamw+abort", 0.30, "optax"),
    _on_large("apply", "optadamw+drop", 0.30, "optax"),
    _on_large("guard", "optadamw+guard", 1.05, "optadamw"),
    _on_large("guard", "optadamw+guard+stats", 1.05, "optadamw"),
    _on_large("guard", "optadamw+guard+norms", None, "optadamw"),
    _to_build("optadamw+abort"),
    _to_build("optadamw+abort+all"),
    _to_build("optadamw+drop+all"),
    *_by_kernels("large", are_promised=True),
    *_by_kernels("odd", are_promised=True),
    *_by_kernels("transformer", are_promised=True),
    # Most of these steps is JAX's dispatch of 4,000 arrays, which no kernel removes.
    *_by_kernels("small", are_promised=False),
    _on_large("apply", "optadamw+abort+native", 0.15, "optax"),
    _on_large("precision", "optadamw+8bit+native", 1.0, _NATIVE),
    _on_large("precision", "optadamw+8bit+native", None, "optadamw+xla"),
    _on_large("precision", "optadamw+compact+native", 1.1, _NATIVE),
    _on_large("precision", "optadamw+compact+native", None, "optadamw+xla"),
    _to_build_by_kernels("adamw", 0.30),
    _to_build_by_kernels("clip-ema-guard", 0.25),
)


def judge(case: dict[str, Any], exempt: str | None) -> list[dict[str, Any]]:
    """Judges every target that a measured case has figures for.

    Args:
        case: A case of the report, with the samples of each contender.
        exempt: Why the limits do not bind here; None if they do.

    Returns:
        For each target its text, the measured value, its quartiles and the verdict: by
        the median alone, with a remark if the quartiles lie on both sides of the limit
        or if other processes took part of the machine.
    """
    verdicts = []
    for target in TARGETS:
        if target.tree not in (None, case["tree"]):
            continue
        if target.config is not None and case["config"] not in target.config:
            continue
        measured = _measured(target, case)
        if measured is not None:
            verdicts.append(
                {
                    "target": str(target),
                    **measured._asdict(),
                    "limit": target.limit,
                    "verdict": (
                        f"not judged: {exempt}"
                        if exempt
                        else _verdict(target, measured, case)
                    ),
                }
            )
    return verdicts


def _measured(target: Target, case: dict[str, Any]) -> Spread | None:
    judged = target.contender
    names = (judged,) if isinstance(judged, str) else judged
    found = [case["contenders"].get(name, {}) for name in (*names, *target.against)]
    if target.metric == "temporaries":
        taken = [c["temporary_bytes"] for c in found if "temporary_bytes" in c]
        if not taken:
            return None
        fraction = max(taken) / case["parameter_bytes"]
        return Spread(fraction, fraction, fraction)
    samples = _samples(found, (target.metric,))
    return None if samples is None else per_round(samples[0], _added(samples[1:]))


def _samples(
    found: Sequence[dict[str, Any]], metrics: Sequence[Metric]
) -> list[list[float]] | None:
    """Each figure of each round; None if one was not measured."""
    samples = []
    for figures, metric in itertools.product(found, metrics):
        if metric == "build_s":
            phases = _samples([figures], _PHASES)
            if phases is None:
                return None
            samples.append(_added(phases))
        elif metric in figures:
            samples.append([float(np.median(turn)) for turn in figures[metric]])
        else:
            return None
    return samples


def _added(rounds: Sequence[Sequence[float]]) -> list[float]:
    return [sum(figures) for figures in zip(*rounds, strict=True)]


def _verdict(target: Target, measured: Spread, case: dict[str, Any]) -> str:
    limit = target.limit
    if limit is None:
        return "reported"
    words = ["met" if measured.median <= limit else "MISSED"]
    if measured.lower <= limit < measured.upper:
        words.append("within noise")
    if (_others(target, case) or 0.0) > interference.TOLERATED:
        words.append("on a busy machine")
    return ", ".join(words)


def _others(target: Target, case: dict[str, Any]) -> float | None:
    match target.metric:
        case "temporaries":  # Read from the compiled program, whoever else computes.
            return None
        case "step_s":
            return case["disturbance"]["stepping"]["others"]
        case "trace_s" | "lower_s" | "compile_s" | "build_s":
            return case["disturbance"]["compiling"]["others"]
