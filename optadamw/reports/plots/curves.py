"""The curves of a history: a panel for each number that was recorded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from optadamw.base.errors import invalid, mistyped
from optadamw.reports.plots.records import (
    History,
    along,
    checked_histories,
    column,
    is_number,
    listed,
)
from optadamw.reports.plots.saving import saved
from optadamw.reports.plots.style import (
    COLORS,
    DOTTED,
    columns_of,
    finish,
    heights,
    logarithmic,
    words,
)

PARTS = {"training_": DOTTED, "validation_": "-"}
"""The beginnings of names that share a panel, and their lines."""

_CHOOSE = (
    "Record it in every record of every history, or choose the curves with `fields`."
)


def curves(
    histories: Mapping[str, History],
    path: str | Path,
    *,
    fields: Sequence[str] | None = None,
    x: str | None = None,
    titles: Mapping[str, str] | None = None,
    columns: int | None = None,
) -> Path:
    """Draw the recorded numbers of trainings, in one panel for each name.

    `training_loss` and `validation_loss` share the panel "loss", as all names that
    begin so do. A panel of a loss is logarithmic unless a value is negative; one of an
    accuracy is in percent and leaves out the first fifth of the training.

    Args:
        histories: For each label, which the legend shows, one record for each epoch or
            step: a mapping of names to numbers. None and values that are not finite
            are gaps.
        path: The file to write; its ending chooses the format, such as ".png".
        fields: The names to draw. None (default): all numbers of the first record.
        x: The field along which they are drawn. None (default): "epoch", or else
            "step", also after a prefix as in "optimizer/step".
        titles: For some panels ("loss", "learning_rate") a title. None (default): the
            name of the panel.
        columns: The number of panels side by side; 1 suits a narrow screen. None
            (default): 1 for one panel, 2 for up to six, else 3.

    Returns:
        `path`.

    Raises:
        TypeError: `histories` is no mapping of labels to lists of records, or a value
            or `columns` is no number.
        ValueError: There is no record, or one lacks a field; the message names it.
        OSError, ValueError: `path` is in no folder, or its ending names no format.

    Example:
        >>> import tempfile, pathlib, optadamw
        >>> history = [{"step": i, "loss": 0.5**i, "grad_norm": 1.0} for i in range(9)]
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "curves.png"
        >>> optadamw.plotting.curves({"AdamW": history}, path).name
        'curves.png'
    """
    checked = checked_histories(histories)
    if isinstance(fields, str):
        raise mistyped("fields", "a sequence of names, or None", fields)
    first = next(iter(checked.values()))
    axis = along(first, x)
    names = list(fields) if fields is not None else _numbers(first[0], axis)
    if not names:
        rule = "the names of at least one number besides that along which it is drawn"
        raise invalid("fields", rule, names, f"A record has {listed(first[0])}.")
    panels: dict[str, list[str]] = {}
    for name in names:
        panels.setdefault(_panel(name), []).append(name)
    read = {
        label: {
            name: column(f"histories[{label!r}]", history, name, _CHOOSE)
            for name in dict.fromkeys((axis, *names))
        }
        for label, history in checked.items()
    }
    figure, places = _figure(len(panels), columns)
    for axes, (panel, members) in zip(places, panels.items(), strict=True):
        _draw(axes, read, axis, members)
        finish(axes, (titles or {}).get(panel, words(panel)))
        _scale(axes, panel, read, members)
        axes.set_xlabel(words(axis))
    _legend(figure, places[0], read, panels, most=2 if columns == 1 else 6)
    return saved(figure, path)


def _numbers(record: Mapping[str, Any], axis: str) -> list[str]:
    return [name for name, x in record.items() if name != axis and is_number(x)]


def _panel(name: str) -> str:
    for part in PARTS:
        name = name.removeprefix(part)
    return name


def _figure(count: int, columns: int | None) -> tuple[Figure, list[Axes]]:
    across = columns_of(columns, 1 if count == 1 else 2 if count <= 6 else 3)
    down = -(-count // across)
    size = (5.0 * across, 3.5 * down + 0.5)
    if columns is None:
        size = (5.0 * max(across, 1.4), max(3.5 * down, 4.2))
    figure = Figure(figsize=size, layout="constrained")
    places = list(figure.subplots(down, across, squeeze=False).flat)
    for axes in places[count:]:
        axes.set_visible(False)
    return figure, places[:count]


def _draw(axes: Axes, read: Any, axis: str, members: list[str]) -> None:
    for index, columns in enumerate(read.values()):
        for name in members:
            known = [line for part, line in PARTS.items() if name.startswith(part)]
            # Trainings compared at one schedule coincide: later lines are thinner, so
            # that the earlier ones remain visible beneath.
            width = 1.5 if known else 5 / (1 + 2 * index)
            axes.plot(
                columns[axis],
                columns[name],
                color=COLORS[index % len(COLORS)],
                linestyle=known[0] if known else "-",
                linewidth=width if len(read) > 1 else 1.5,
                marker="o" if len(columns[axis]) == 1 else None,
            )


def _scale(axes: Axes, panel: str, read: Any, members: list[str]) -> None:
    if panel.endswith("loss"):
        logarithmic(axes)
    elif panel.endswith("accuracy"):
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0))
        later = [columns[name] for columns in read.values() for name in members]
        reached = np.concatenate([values[len(values) // 5 :] for values in later])
        low = float(np.nanmin(reached)) if np.isfinite(reached).any() else 0.0
        margin = 0.05 * max(1 - low, 0.01)
        axes.set_ylim(low - margin, 1 + margin)
    else:
        if not np.any(heights(axes) < 0):
            axes.set_ylim(bottom=0.0)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _legend(figure: Figure, axes: Axes, read: Any, panels: Any, most: int) -> None:
    for index, label in enumerate(read):
        color = COLORS[index % len(COLORS)]
        axes.plot([], [], color=color, linewidth=3, label=label)
    names = [name for members in panels.values() for name in members]
    for part, line in reversed(PARTS.items()):
        if any(name.startswith(part) for name in names):
            label = part.rstrip("_")
            axes.plot([], [], color="0.35", linestyle=line, label=label)
    count = min(len(axes.get_legend_handles_labels()[0]), most)
    figure.legend(loc="outside upper center", ncols=count, frameon=False)
