"""The results of a sweep: a record of numbers for each member, and a table of them."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from optadamw.store.state import states_in
from optadamw.transforms.with_stats import stats_of

_COUNTERS = ("stats/step", "stats/skipped")
"""The statistics that a table shows."""


def records(points: Mapping[str, np.ndarray], members: Any) -> list[dict[str, float]]:
    """Return the records of `Sweep.records`."""
    has_stats = len(states_in(members.state)) == 1
    stats = stats_of(members.state) if has_stats else None
    loss, live, stats = jax.device_get((members.loss, members.live, stats))
    rows = []
    for index in range(len(loss)):
        row: dict[str, float] = {"member": index}
        row |= {name: column[index].item() for name, column in points.items()}
        row |= {"loss": float(loss[index]), "live": float(live[index])}
        if stats is not None:
            own = jax.tree.map(lambda x, i=index: x[i], stats).flat()
            row |= {f"stats/{name}": value for name, value in own.items()}
        rows.append(row)
    return rows


def table(rows: list[dict[str, float]], names: list[str], most: int) -> str:
    """Return the table of `Sweep.table`."""
    fields = ["member", *names, "loss", *(f for f in _COUNTERS if f in rows[0])]
    ordered = sorted(
        rows, key=lambda row: (not math.isfinite(row["loss"]), row["loss"])
    )
    lines = [[field.removeprefix("stats/") for field in fields] + [""]]
    for row in ordered[:most]:
        cells = [_shown(row[field]) for field in fields]
        lines.append([*cells, "" if row["live"] else "stopped"])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [
        "  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    left = len(rows) - most
    return "\n".join([*text, *([f"and {left} more"] if left > 0 else [])])


def _shown(value: float) -> str:
    is_whole = math.isfinite(value) and value == int(value) and abs(value) < 1e6
    return str(int(value)) if is_whole else f"{value:.4g}"
