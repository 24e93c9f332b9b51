"""The plots of the demo's report, beside those of `optadamw.plotting`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from optadamw.cli.demo.grid import Grid
from optadamw.reports.plots.style import COLORS, finish, logarithmic

# Trainings that coincide remain visible: later lines are thinner and darker.
_STYLES: tuple[dict[str, Any], ...] = (
    {"color": COLORS[5], "linestyle": "-", "linewidth": 5},
    {"color": COLORS[1], "linestyle": (0, (5, 2)), "linewidth": 2.2},
    {"color": "#000000", "linestyle": (0, (1.5, 1.5)), "linewidth": 1.8},
)
_WORST = 3.0
"""Errors beyond so many times the least one have the last color."""


def heatmaps(
    maps: Mapping[str, Grid],
    best_decays: Mapping[str, np.ndarray],
    path: Path,
    *,
    stacked: bool = False,
) -> Path:
    """Draw the mean test error of each map, and the best decay of each rate.

    Args:
        maps: For each label the errors of a grid.
        best_decays: For each label the best decay of each rate.
        path: The PNG file to write.
        stacked: Whether the maps stand one below another, for a narrow screen, instead
            of side by side. Default: False.

    Returns:
        `path`.
    """
    least = min(grid.errors.mean(axis=2).min() for grid in maps.values())
    down, across = (len(maps), 1) if stacked else (1, len(maps))
    size = (4.4, 3.4 * down) if stacked else (3.7 * across, 4.3)
    figure = Figure(figsize=size, layout="constrained")
    panels = list(figure.subplots(down, across, sharey=True, squeeze=False).flat)
    for axes, (label, grid) in zip(panels, maps.items(), strict=True):
        errors = grid.errors.mean(axis=2)
        image = axes.pcolormesh(
            edges(grid.decays),
            edges(grid.rates),
            np.minimum(errors / least, _WORST),
            cmap="viridis_r",
            vmin=1.0,
            vmax=_WORST,
        )
        trained = errors.min(axis=1) <= 1.5 * errors.min()
        axes.plot(
            best_decays[label][trained],
            grid.rates[trained],
            color="white",
            marker="o",
            markersize=5,
            markeredgecolor="black",
            linewidth=1.2,
        )
        axes.set(xscale="log", yscale="log", xlabel="weight decay, in its own unit")
        axes.set_title(label, fontsize=10)
        if stacked or axes is panels[0]:
            axes.set_ylabel("learning rate")
    place = "bottom" if stacked else "right"
    bar = figure.colorbar(image, ax=panels, extend="max", shrink=0.9, location=place)
    bar.set_label(f"test error / least of all ({least:.1%})")
    figure.supxlabel("dots: the best decay for each rate that trains", fontsize=9)
    figure.savefig(path, dpi=130)
    return path


def edges(centers: np.ndarray) -> np.ndarray:
    """Return the edges of cells around ascending numbers on a logarithmic axis.

    Edges halfway between the numbers themselves, which Matplotlib's "nearest" shading
    takes, cut the first cell and end the axis of each map elsewhere.
    """
    marks = np.log10(centers)
    inner = (marks[1:] + marks[:-1]) / 2
    ends = 2 * marks[0] - inner[0], 2 * marks[-1] - inner[-1]
    return 10.0 ** np.array([ends[0], *inner, ends[1]])


def losses(
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    path: Path,
    mark: tuple[float, str] | None = None,
) -> Path:
    """Draw the validation loss of each training, by epoch.

    Args:
        histories: For each label one record per epoch, with `epoch` and
            `validation_loss`; a loss that is None or not finite is left out.
        path: The PNG file to write.
        mark: An epoch to mark, and its text; None: none.

    Returns:
        `path`.
    """
    # No wider, so that its letters can be read on a phone.
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.subplots()
    for index, (label, history) in enumerate(histories.items()):
        axes.plot(
            [record["epoch"] for record in history],
            np.array([r["validation_loss"] for r in history], dtype=float),
            **_STYLES[index],
            marker="o" if len(history) == 1 else None,
            label=label,
        )
    finish(axes, "")
    logarithmic(axes)
    if mark is not None:
        axes.axvline(mark[0], color="0.35", linewidth=1)
        axes.annotate(
            mark[1],
            (mark[0], 0.96),
            xycoords=("data", "axes fraction"),
            xytext=(5, 0),
            textcoords="offset points",
            va="top",
        )
    axes.set(xlabel="Epoch", ylabel="Validation loss (nats)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
    return path
