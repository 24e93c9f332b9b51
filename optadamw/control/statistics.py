"""The statistics that a step records: one short row of numbers for each group."""

from dataclasses import dataclass

import numpy as np

from optadamw.base.masks import Selector

TREE = "all"
"""The name of the row of the whole tree."""

FREE = ("learning_rate", "weight_decay", "grad_norm", "clipped_grad_norm")
"""The entries that are always recorded."""
NORMS = ("update_norm", "param_norm")
"""The entries that are recorded with `norms=True`."""


@dataclass(frozen=True)
class Statistics:
    """The checked arguments of `with_stats`."""

    norms: bool
    """Whether the norms of updates and parameters are recorded too."""
    groups: tuple[tuple[str, Selector], ...]
    """Name and choice of each group of parameters whose norms are recorded."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the rows, in the order in which norms are measured."""
        return (TREE, *(name for name, _ in self.groups))

    def empty(self) -> dict[str, np.ndarray]:
        """Return the rows before the first step, in the order of `FREE` and `NORMS`."""
        extra = len(NORMS) if self.norms else 0
        rows = {TREE: np.zeros(len(FREE) + extra, np.float32)}
        for name, _ in self.groups:
            rows[name] = np.zeros(1 + extra, np.float32)
        return rows
