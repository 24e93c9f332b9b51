"""Plots of training histories; Matplotlib is imported at the first use of a plot."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from optadamw.base.lazy import lazily as _lazily

if _TYPE_CHECKING:
    from optadamw.reports.plotting import curves as curves
    from optadamw.reports.plotting import update_to_weight as update_to_weight

__all__ = ["curves", "update_to_weight"]

__getattr__, __dir__ = _lazily(
    __name__,
    {name: f"optadamw.reports.plotting:{name}" for name in __all__},
    __all__,
)
