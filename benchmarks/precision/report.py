"""The figures of all contenders as tables in Markdown."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.precision.contenders import BASE

_HEADER = (
    "contender",
    "parameters",
    "bytes/parameter",
    "final loss",
    "difference to full",
    "its standard error",
    "within full's",
    "training loss",
    "seconds a run",
)


class Difference(NamedTuple):
    """The final loss of one contender, compared with full precision seed by seed."""

    mean: float
    error: float
    """The standard error of the mean, over seeds."""
    is_within: bool
    """Not farther from full precision than its own standard error over seeds."""


def problem(name: str, figures: Mapping[str, Any]) -> str:
    """Sets the final losses of one problem as a table.

    Args:
        name: The problem.
        figures: `settings`, and for each of `contenders` its runs or why it has none.

    Returns:
        Markdown.
    """
    entries = figures["contenders"]
    base = _losses(entries.get(BASE, {}))
    title = f"## {name}: {figures['settings']['parameters']:,} parameters"
    lines = [title, "", _head(base), "", *_markdown(_HEADER, _rows(entries, base))]
    return "\n".join(lines)


def difference(
    losses: Mapping[int, float], base: Mapping[int, float]
) -> Difference | None:
    """Compares two contenders on the seeds that both have.

    Args:
        losses: Final loss by seed.
        base: The same of full precision.

    Returns:
        None if fewer than two seeds are common.
    """
    common = losses.keys() & base.keys()
    if len(common) < 2:
        return None
    apart = [losses[seed] - base[seed] for seed in sorted(common)]
    mean = statistics.fmean(apart)
    limit = standard_error([base[seed] for seed in sorted(common)])
    return Difference(mean, standard_error(apart), abs(mean) <= limit)


def standard_error(values: Sequence[float]) -> float:
    """The standard error of the mean of a sample."""
    return float(np.std(values, ddof=1)) / len(values) ** 0.5


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Sets a table in Markdown."""
    return "\n".join(_markdown(header, rows))


def _head(base: Mapping[int, float]) -> str:
    if len(base) < 2:
        return f"`{BASE}` has not run on two seeds: nothing to compare with."
    losses = list(base.values())
    return (
        f"`{BASE}` ends at {statistics.fmean(losses):.5f} with a standard error of "
        f"{standard_error(losses):.5f} over {len(losses)} seeds."
    )


def _rows(
    entries: Mapping[str, Any], base: Mapping[int, float]
) -> Iterable[Sequence[str]]:
    for name, entry in entries.items():
        if "absent" in entry:
            reason = entry["absent"].split("\n", 1)[0].replace("|", "/")
            yield name, entry["kept"], "", f"absent: {reason}", "", "", "", "", ""
            continue
        losses = _losses(entry)
        training = [float(run["training_loss"]) for run in entry["runs"]]
        found = difference(losses, base)
        yield (
            name,
            entry["kept"],
            f"{entry['runs'][0]['bytes_per_parameter']:.3f}",
            f"{statistics.fmean(losses.values()):.5f}",
            *_compared(None if name == BASE else found),
            f"{statistics.fmean(training):.5f}",
            f"{statistics.median(run['seconds'] for run in entry['runs']):.1f}",
        )


def _compared(found: Difference | None) -> tuple[str, str, str]:
    if found is None:
        return "", "", ""
    if not math.isfinite(found.mean):
        return "", "", "**no**"
    verdict = "yes" if found.is_within else "**no**"
    return f"{found.mean:+.5f}", f"{found.error:.5f}", verdict


def _losses(entry: Mapping[str, Any]) -> dict[int, float]:
    return {run["seed"]: float(run["loss"]) for run in entry.get("runs", ())}


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
