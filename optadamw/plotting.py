"""Plots of trainings, sweeps and plans; the first use of a plot imports Matplotlib."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from optadamw.base.lazy import lazily as _lazily

if _TYPE_CHECKING:
    from optadamw.reports.plots.curves import curves as curves
    from optadamw.reports.plots.heatmap import heatmap as heatmap
    from optadamw.reports.plots.memory import memory as memory
    from optadamw.reports.plots.rates import range_test as range_test
    from optadamw.reports.plots.ratios import update_to_weight as update_to_weight
    from optadamw.reports.plots.schedule import schedules as schedules

_SOURCES = {
    "curves": "curves",
    "heatmap": "heatmap",
    "memory": "memory",
    "range_test": "rates",
    "schedules": "schedule",
    "update_to_weight": "ratios",
}

__all__ = ["curves", "heatmap", "memory", "range_test", "schedules", "update_to_weight"]

__getattr__, __dir__ = _lazily(
    __name__,
    {name: f"optadamw.reports.plots.{file}:{name}" for name, file in _SOURCES.items()},
    __all__,
)
