"""Plots of trainings, from records such as those in the demo's `summary.json`.

A history is a mapping of names to numbers for each epoch; histories come under the
label that the legend shows. Figures are made without pyplot, so no global state changes
and no display is needed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    PercentFormatter,
    StrMethodFormatter,
)

History: TypeAlias = Sequence[Mapping[str, Any]]

# Okabe and Ito's palette, which every kind of color vision tells apart.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DOTTED, _DASHED = (0, (1, 1.2)), (0, (4, 3))
_MARKERS = ("o", "s", "^", "D", "v", "P")


def curves(histories: Mapping[str, History], path: Path) -> Path:
    """Draw loss, accuracy, gradient norm and learning rate of each training.

    Args:
        histories: For each label, one record per epoch with `epoch`, `training_loss`,
            `training_accuracy`, `validation_loss`, `validation_accuracy`,
            `gradient_norm` and `learning_rate`.
        path: The PNG file to write.

    Returns:
        `path`.
    """
    figure = Figure(figsize=(10, 7), layout="constrained")
    (loss, accuracy), (norm, rate) = figure.subplots(2, 2, sharex=True)
    for index, (label, history) in enumerate(histories.items()):
        color = _COLORS[index % len(_COLORS)]
        for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
            _line(axes, history, f"training_{name}", color, linestyle=_DOTTED)
            _line(axes, history, f"validation_{name}", color)
        _line(norm, history, "gradient_norm", color)
        # Trainings compared at one schedule coincide: later lines are thinner, so
        # that the earlier ones remain visible beneath.
        _line(rate, history, "learning_rate", color, linewidth=5 / (1 + 2 * index))
        loss.plot([], [], color=color, linewidth=3, label=label)
    loss.plot([], [], color="0.35", label="validation")
    loss.plot([], [], color="0.35", linestyle=_DOTTED, label="training")
    for axes, title in (
        (loss, "Loss (cross-entropy, nats)"),
        (accuracy, "Accuracy"),
        (norm, "Gradient norm (mean of the epoch)"),
        (rate, "Learning rate"),
    ):
        _finish(axes, title)
    for axes in (norm, rate):
        axes.set_xlabel("Epoch")
    _logarithmic(loss)
    accuracy.yaxis.set_major_formatter(PercentFormatter(xmax=1.0))
    accuracy.set_ylim(*_upper_part(histories))
    for axes in (norm, rate):
        axes.set_ylim(bottom=0.0)
    rate.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    figure.legend(loc="outside upper center", ncols=len(histories) + 2, frameon=False)
    figure.savefig(path, dpi=150)
    return path


def update_to_weight(histories: Mapping[str, History], path: Path) -> Path:
    """Draw the length of each layer's update relative to that of its weights.

    A ratio near 1e-3 is a common rule of thumb for a fitting learning rate; layers that
    differ by orders of magnitude learn at different speeds.

    Args:
        histories: For each label, one record per epoch with `epoch` and
            `update_to_weight`, a mapping of layers to ratios.
        path: The PNG file to write.

    Returns:
        `path`.
    """
    figure = Figure(figsize=(5 * len(histories), 4.5), layout="constrained")
    panels = figure.subplots(1, len(histories), sharex=True, sharey=True, squeeze=False)
    thumb = "1e-3 (rule of thumb)"
    for axes, (label, history) in zip(panels[0], histories.items(), strict=True):
        epochs = [record["epoch"] for record in history]
        for index, layer in enumerate(history[0]["update_to_weight"]):
            axes.plot(
                epochs,
                np.array([r["update_to_weight"][layer] for r in history], dtype=float),
                color=_COLORS[index % len(_COLORS)],
                marker=_MARKERS[index % len(_MARKERS)],
                markevery=max(1, len(epochs) // 8),
                label=layer,
            )
        axes.axhline(1e-3, color="0.35", linewidth=1, linestyle=_DASHED, label=thumb)
        _finish(axes, label)
        axes.set_xlabel("Epoch")
        axes.set_yscale("log")
    panels[0, 0].set_ylabel("|update| / |weight| (mean of the epoch)")
    handles, layers = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        handles,
        layers,
        loc="outside upper center",
        ncols=len(layers),
        frameon=False,
    )
    figure.savefig(path, dpi=150)
    return path


def _line(axes: Axes, history: History, name: str, color: str, **style: Any) -> None:
    epochs = [record["epoch"] for record in history]
    marker = "o" if len(epochs) == 1 else None
    # JSON has no NaN: a summary holds None where a loss was not finite.
    values = np.array([record[name] for record in history], dtype=float)
    axes.plot(epochs, values, color=color, marker=marker, **style)


def _logarithmic(axes: Axes) -> None:
    """Use a logarithmic scale, unless a failed training left nothing to show on it."""
    values = np.concatenate([line.get_ydata() for line in axes.lines])
    if not np.any(np.isfinite(values) & (values > 0)):
        return
    axes.set_yscale("log")
    # Labels such as 0.05 rather than 5 x 10^-2: losses span few powers of ten.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.minorticks_off()


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _upper_part(histories: Mapping[str, History]) -> tuple[float, float]:
    """Return limits that leave out the first epochs, where accuracy is near chance."""
    reached = [
        record[f"{part}_accuracy"]
        for history in histories.values()
        for record in history[len(history) // 5 :]
        for part in ("training", "validation")
    ]
    low = min(reached)
    return low - 0.05 * (1 - low), 1 + 0.05 * (1 - low)
