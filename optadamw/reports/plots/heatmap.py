"""The map of a sweep over two hyperparameters."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from optadamw.base.errors import invalid
from optadamw.reports.plots.records import checked_records, column
from optadamw.reports.plots.saving import saved
from optadamw.reports.plots.style import words

_CHOOSE = "Give every record this field, or name other fields."
_LARGEST, _LEAST = 1e250, 1e-250
"""Matplotlib computes squares, powers of ten and differences of what it draws, which
overflow beyond about 1e307 and are 0 below 1e-300."""


def heatmap(
    records: Sequence[Mapping[str, Any]],
    path: str | Path,
    *,
    x: str,
    y: str,
    value: str = "loss",
    title: str = "",
) -> Path:
    """Draw a number over two hyperparameters, the least one marked by a star.

    Records with the same `x` and `y`, such as those of several seeds, are averaged. If
    the records fill a grid, the map has a cell for each pair; otherwise, as in a random
    search, a dot for each record. A cross marks a member that was stopped ("live" is
    0); values that are not finite are left grey. Colors are on a logarithmic scale if
    all values are above 0, and end at 10 times the least one.

    Args:
        records: One mapping for each member of a sweep, such as `Sweep.records` gives.
        path: The file to write; its ending chooses the format, such as ".png".
        x: The field along the horizontal axis.
        y: The field along the vertical axis.
        value: The field that the colors show. Default: "loss".
        title: The title. Default: none.

    Returns:
        `path`.

    Raises:
        TypeError: `records` is no list of mappings, or a value is no number.
        ValueError: There is no record, one lacks a field, or `x` and `y` are the same.
        OSError, ValueError: `path` is in no folder, or its ending names no format.

    Example:
        >>> import tempfile, pathlib, optadamw
        >>> records = [
        ...     {"rate": r, "decay": d, "loss": (r - 1) ** 2 + d}
        ...     for r in (0.1, 1.0, 10.0)
        ...     for d in (0.0, 0.1)
        ... ]
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "sweep.png"
        >>> optadamw.plotting.heatmap(records, path, x="rate", y="decay").name
        'sweep.png'
    """
    rows = checked_records("records", records)
    if x == y:
        raise invalid("y", "another field than `x`", y)
    xs, ys, values = (column("records", rows, f, _CHOOSE) for f in (x, y, value))
    is_told = all("live" in row for row in rows)
    live = column("records", rows, "live", _CHOOSE) if is_told else np.ones(len(rows))
    at, places = np.unique(np.stack([xs, ys]), axis=1, return_inverse=True)
    places = places.reshape(-1)  # NumPy 2.0.0 and 2.0.1 keep both axes
    seeds = np.bincount(places)
    with np.errstate(invalid="ignore"):
        means = np.bincount(places, weights=values / seeds[places])
    stopped = np.bincount(places, weights=1 - live) > 0
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    shown = _shown(means)
    norm = _norm(shown)
    columns, lines = np.unique(at[0]), np.unique(at[1])
    is_grid = len(means) == len(columns) * len(lines)
    if is_grid:
        drawn, spots = _cells(axes, at, shown, columns, lines, norm)
    else:
        drawn, spots = _dots(axes, at, shown, norm)
    axes.plot(*spots[:, stopped], "x", color="black", linestyle="none")
    if np.isfinite(means).any():
        best = spots[:, np.nanargmin(np.where(np.isfinite(means), means, np.nan))]
        axes.plot(*best, "*", color="white", markeredgecolor="black", markersize=14)
    axes.set(xlabel=words(x), ylabel=words(y))
    axes.set_title(title, loc="left", fontsize=11)
    mean = "" if len(means) == len(rows) else " (mean)"
    bar = figure.colorbar(drawn, ax=axes, extend="max")
    bar.set_label(words(value) + mean)
    return saved(figure, path)


def _shown(means: np.ndarray) -> np.ndarray:
    """Return the numbers without the extremes that Matplotlib cannot draw."""
    is_finite = np.isfinite(means)
    least = _LEAST if (means[is_finite] > 0).all() else -_LARGEST
    return np.where(is_finite, np.clip(means, least, _LARGEST), means)


def _norm(means: np.ndarray) -> Normalize:
    finite = means[np.isfinite(means)]
    if not finite.size:
        return Normalize(0, 1)
    low, high = float(finite.min()), float(finite.max())
    if low > 0:
        return LogNorm(low, max(min(high, 10 * low), 1.001 * low))
    return Normalize(low, high if high > low else low + 1)


def _cells(
    axes: Axes,
    at: np.ndarray,
    means: np.ndarray,
    columns: np.ndarray,
    lines: np.ndarray,
    norm: Normalize,
) -> tuple[Any, np.ndarray]:
    spots = np.stack([np.searchsorted(columns, at[0]), np.searchsorted(lines, at[1])])
    cells = np.full((len(lines), len(columns)), np.nan)
    cells[spots[1], spots[0]] = np.where(np.isfinite(means), means, np.nan)
    axes.set_facecolor("0.8")
    drawn = axes.imshow(
        cells, origin="lower", aspect="auto", cmap="viridis_r", norm=norm
    )
    axes.set_xticks(range(len(columns)), [f"{c:.3g}" for c in columns], rotation=45)
    axes.set_yticks(range(len(lines)), [f"{c:.3g}" for c in lines])
    return drawn, spots


def _dots(
    axes: Axes, at: np.ndarray, means: np.ndarray, norm: Normalize
) -> tuple[Any, np.ndarray]:
    finite = np.isfinite(means)
    axes.scatter(at[0, ~finite], at[1, ~finite], s=60, color="0.8")
    drawn = axes.scatter(
        at[0, finite],
        at[1, finite],
        s=60,
        c=means[finite],
        cmap="viridis_r",
        norm=norm,
    )
    for row, name in zip(at, "xy", strict=True):
        if row.min() > 0 and row.max() > 20 * row.min():
            axes.set(**{f"{name}scale": "log"})
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    return drawn, at
