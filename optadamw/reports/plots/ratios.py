"""The ratio of update to weight, by which a learning rate is judged."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from optadamw.reports.plots.records import (
    History,
    along,
    checked_histories,
    column,
    listed,
)
from optadamw.reports.plots.saving import saved
from optadamw.reports.plots.style import (
    COLORS,
    DASHED,
    MARKERS,
    columns_of,
    finish,
    words,
)

FIELD = "update_to_weight"


def update_to_weight(
    histories: Mapping[str, History],
    path: str | Path,
    *,
    x: str | None = None,
    columns: int | None = None,
) -> Path:
    """Draw the length of each layer's update relative to that of its weights.

    A ratio near 1e-3 is a common rule of thumb for a fitting learning rate; layers that
    differ by orders of magnitude learn at different speeds.

    Args:
        histories: For each label, one record for each epoch or step. Its ratios are in
            `update_to_weight`, a mapping of layers to ratios, or in numbers whose names
            end so, as in `stats_of(state).flat()` of a transformation with
            `with_stats(tx, norms=True, groups=...)`.
        path: The file to write; its ending chooses the format, such as ".png".
        x: The field along which they are drawn. None (default): "epoch", or else
            "step", also after a prefix as in "optimizer/step".
        columns: The number of panels side by side; 1 suits a narrow screen. None
            (default): all.

    Returns:
        `path`.

    Raises:
        TypeError: `histories` is no mapping of labels to lists of records, or a value
            or `columns` is no number.
        ValueError: There is no record, or one lacks a ratio; the message names it.
        OSError, ValueError: `path` is in no folder, or its ending names no format.
    """
    checked = checked_histories(histories)
    across = min(columns_of(columns, len(checked)), len(checked))
    down = -(-len(checked) // across)
    width = 5 * across if columns is not None else max(5 * across, 7)
    figure = Figure(figsize=(width, 3.5 * down + 1), layout="constrained")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(checked) :]:
        axes.set_visible(False)
    thumb = "1e-3 (rule of thumb)"
    shown = dict.fromkeys(name for rows in checked.values() for name in _ratios(rows))
    for axes, (label, history) in zip(panels.flat, checked.items(), strict=False):
        axis, name = along(history, x), f"histories[{label!r}]"
        steps = column(name, history, axis, "Record it, or choose another `x`.")
        rows = [_ratios([record]) for record in history]
        for index, layer in enumerate(shown):
            remedy = "Record the ratio of every layer in every record."
            axes.plot(
                steps,
                column(name, rows, layer, remedy),
                color=COLORS[index % len(COLORS)],
                marker=MARKERS[index // len(COLORS) % len(MARKERS)],
                markevery=max(1, len(steps) // 8),
                label=layer,
            )
        axes.axhline(1e-3, color="0.35", linewidth=1, linestyle=DASHED, label=thumb)
        finish(axes, label)
        axes.set_xlabel(words(axis))
        axes.set_yscale("log")
    for axes in panels[:, 0]:
        axes.set_ylabel("|update| / |weight|")
    handles, layers = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        handles,
        layers,
        loc="outside upper center",
        ncols=min(len(layers), 5, 2 * across if columns is not None else 5),
        frameon=False,
    )
    return saved(figure, path)


def _ratios(rows: History) -> dict[str, Any]:
    """Return the ratios of the first record, by layer."""
    found: dict[str, Any] = {}
    prefixed: dict[tuple[str, str], Any] = {}
    for field, value in rows[0].items():
        if field == FIELD and isinstance(value, Mapping):
            found |= value
        elif field == FIELD or field.endswith(f"/{FIELD}"):
            before = field.removesuffix(FIELD).rstrip("/")
            prefix, is_group, group = before.rpartition("groups/")
            label = group if is_group else "all parameters"
            prefix = prefix.rstrip("/") if is_group else before
            prefixed[prefix, label] = value
    several = len({prefix for prefix, _ in prefixed}) > 1
    for (prefix, label), value in prefixed.items():
        found[f"{prefix}: {label}" if several and prefix else label] = value
    if not found:
        raise ValueError(
            f"A record must have {FIELD!r}; it has {listed(rows[0])}. Record the norms "
            "with with_stats(tx, norms=True) or adamw(stats='norms'), and take "
            "stats_of(state).flat()."
        )
    return found
