"""The report as text and as a file."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import interference
from benchmarks.ratios import Spread, per_round, spread

_PHASES = {"trace_s": "trace ms", "lower_s": "lower ms", "compile_s": "compile ms"}


def write(report: dict[str, Any], path: Path) -> None:
    """Writes the report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


def head(report: dict[str, Any]) -> str:
    """Says in a few lines what ran where."""
    machine, settings = report["machine"], report["settings"]
    versions = ", ".join(
        f"{name} {version}" for name, version in report["versions"].items() if version
    )
    source = report["source"]
    commit = (source["commit"] or "unknown")[:12] + (", dirty" * bool(source["dirty"]))
    return (
        f"{versions}\ncommit {commit}; {machine['platform']} {machine['device_kind']}; "
        f"{machine['cpu']}, {settings['threads']} threads; "
        f"XLA_FLAGS={machine['xla_flags']!r}"
    )


def case(figures: dict[str, Any]) -> str:
    """Sets one case as tables: steps, compilation, verdicts."""
    title = (
        f"{figures['tree']} / {figures['config']}: {figures['leaves']} leaves, "
        f"{figures['parameters']:,} parameters, {_bytes(figures['parameter_bytes'])}"
    )
    parts = [f"\n== {title}"]
    contenders = figures["contenders"]
    ours = _ours(contenders)
    if any("step_s" in c or "check" in c for c in contenders.values()):
        parts.append(_steps(contenders, ours))
    if any("temporary_bytes" in c for c in contenders.values()):
        parts.append(_compilation(contenders, ours, figures["parameter_bytes"]))
    for doing, disturbance in figures["disturbance"].items():
        cores = disturbance["others"]
        if (cores or 0.0) > interference.TOLERATED:
            parts.append(f"BUSY: others took {cores:.2f} cores while {doing}.")
    if figures["verdicts"]:
        parts.append(_verdicts(figures["verdicts"]))
    return "\n\n".join(parts)


def _ours(contenders: dict[str, Any]) -> str:
    """The contender that the others are compared with: the first that is ours."""
    return next((n for n in contenders if n.startswith("optadamw")), "optadamw")


def _steps(contenders: dict[str, Any], ours: str) -> str:
    rows = [("step", "ms [quartiles]", f"{ours} / it [quartiles]")]
    for name, figures in contenders.items():
        if "step_s" in figures:
            milliseconds = [1e3 * float(np.median(turn)) for turn in figures["step_s"]]
            rows.append(
                (
                    name,
                    _spread(spread(milliseconds)),
                    _ratio(contenders, ours, name, "step_s"),
                )
            )
        else:
            rows.append((name, _why_not(figures), ""))
    return _table(rows)


def _compilation(contenders: dict[str, Any], ours: str, parameter_bytes: int) -> str:
    measured = {n: c for n, c in contenders.items() if "temporary_bytes" in c}
    timed = [p for p in _PHASES if all(p in c for c in measured.values())]
    header = ["compiled", "temporaries", "of parameters", "donated", "in place"]
    for phase in timed:
        header += [_PHASES[phase], f"{ours} / it"]
    rows = [tuple(header)]
    for name, figures in measured.items():
        temporary, donated = figures["temporary_bytes"], figures["donated_bytes"]
        row = [
            name,
            _bytes(temporary),
            f"{temporary / parameter_bytes:.2%}",
            _bytes(donated),
            f"{figures['aliased_bytes'] / donated:.1%}",
        ]
        for phase in timed:
            row.append(f"{1e3 * spread(figures[phase]).median:.0f}")
            row.append(_ratio(contenders, ours, name, phase))
        rows.append(tuple(row))
    return _table(rows)


def _verdicts(verdicts: list[dict[str, Any]]) -> str:
    rows = [("target", "measured", "verdict")]
    for verdict in verdicts:
        measured = Spread(verdict["median"], verdict["lower"], verdict["upper"])
        rows.append((verdict["target"], _spread(measured), verdict["verdict"]))
    return _table(rows)


def _ratio(contenders: dict[str, Any], ours: str, name: str, metric: str) -> str:
    if name == ours or metric not in contenders.get(ours, {}):
        return ""
    return _spread(per_round(contenders[ours][metric], contenders[name][metric]))


def _why_not(figures: dict[str, Any]) -> str:
    if "refused" in figures:
        errors = ", ".join(
            f"{what} {error:.3g}" for what, error in figures["check"].items()
        )
        return f"REFUSED: {figures['refused']} (error / allowed: {errors})"
    return figures["absent"]


def _spread(value: Spread) -> str:
    if value.lower == value.upper:
        return f"{value.median:.3g}"
    return f"{value.median:.3g} [{value.lower:.3g}, {value.upper:.3g}]"


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    # A long remark in one cell must not push the columns after it to the right.
    widths = [min(width, 60) for width in widths]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )
