"""What optadamw promises, as data, and whether a measured case keeps it."""

import dataclasses
from typing import Any, Literal

from benchmarks import interference
from benchmarks.ratios import Spread, per_round

Metric = Literal["step_s", "trace_s", "lower_s", "compile_s", "temporaries"]
_LABELS = {
    "step_s": "step time",
    "trace_s": "trace time",
    "lower_s": "lowering time",
    "compile_s": "compile time",
    "temporaries": "temporaries",
}


@dataclasses.dataclass(frozen=True)
class Target:
    """A limit, on the CPU at full size.

    Attributes:
        metric: A time, as a ratio to that of `against`; or the bytes of temporaries, as
            a fraction of the parameters' bytes.
        limit: The largest value that meets the target.
        contender: Whose figure is judged.
        against: The contender it is divided by.
        tree: The tree it is promised for; None is every tree.
        config: The configuration likewise.
    """

    metric: Metric
    limit: float
    contender: str = "optadamw"
    against: str | None = None
    tree: str | None = None
    config: str | None = None

    def __str__(self) -> str:
        """Writes the target as it is printed: what, of whom, at most how much."""
        of = "parameters" if self.against is None else self.against
        return f"{_LABELS[self.metric]}, {self.contender} / {of} <= {self.limit:g}"


TARGETS = (
    Target("step_s", 0.45, against="optax", tree="large", config="clip-ema"),
    Target("step_s", 1.0, against="keras", tree="large", config="clip-ema"),
    Target("step_s", 1.0, against="torch", tree="large", config="clip-ema"),
    Target("step_s", 1.0, against="optax", config="adamw"),
    Target("temporaries", 0.01),
    Target("temporaries", 0.01, contender="optadamw-update"),
    Target("trace_s", 0.30, against="optax", tree="small"),
    Target("lower_s", 1.0, against="optax", tree="small"),
    Target("compile_s", 1.0, against="optax", tree="small"),
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
        if target.config not in (None, case["config"]):
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
    ours = case["contenders"].get(target.contender, {})
    if target.metric == "temporaries":
        if "temporary_bytes" not in ours:
            return None
        fraction = ours["temporary_bytes"] / case["parameter_bytes"]
        return Spread(fraction, fraction, fraction)
    theirs = case["contenders"].get(target.against, {})
    if target.metric not in ours or target.metric not in theirs:
        return None
    return per_round(ours[target.metric], theirs[target.metric])


def _verdict(target: Target, measured: Spread, case: dict[str, Any]) -> str:
    limit = target.limit
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
        case "trace_s" | "lower_s" | "compile_s":
            return case["disturbance"]["compiling"]["others"]
