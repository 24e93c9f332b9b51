"""The colors and axes that all plots share."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, StrMethodFormatter

from optadamw.base.plain import whole_number

# Okabe and Ito's palette, which every kind of color vision tells apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DOTTED, DASHED = (0, (1, 1.2)), (0, (4, 3))
MARKERS = ("o", "s", "^", "D", "v", "P")


def finish(axes: Axes, title: str) -> None:
    """Give axes a title, a grid, and ticks at whole numbers along x."""
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def heights(axes: Axes) -> np.ndarray:
    """Return the finite values of all lines."""
    values = np.concatenate([np.empty(0), *(line.get_ydata() for line in axes.lines)])
    return values[np.isfinite(values)]


def logarithmic(axes: Axes) -> None:
    """Use a logarithmic scale, unless values are negative or nothing is above 0."""
    values = heights(axes)
    if not np.any(values > 0) or np.any(values < 0):
        return
    axes.set_yscale("log")
    # Labels such as 0.05 rather than 5 x 10^-2: losses span few powers of ten.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.minorticks_off()


def words(name: str) -> str:
    """Return the name of a field as a title: "grad_norm" is "Grad norm"."""
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]


def columns_of(columns: Any, default: int) -> int:
    """Return a number of panels side by side; None: `default`.

    Raises:
      TypeError, ValueError: `columns` is no whole number of at least 1.
    """
    if columns is None:
        return default
    return whole_number("columns", columns, "a whole number >= 1, or None", 1)
