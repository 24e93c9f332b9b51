"""The statistics that a step leaves behind: one short row of numbers for each group."""

from dataclasses import dataclass

import numpy as np

from optadamw.base.masks import Selector

TREE = "all"
"""The row of the whole tree."""

FREE = ("learning_rate", "weight_decay", "grad_norm", "clipped_grad_norm")
NORMS = ("update_norm", "param_norm")


@dataclass(frozen=True)
class Statistics:
    """What is recorded: rates and gradient norms, and on request two more norms."""

    norms: bool
    groups: tuple[tuple[str, Selector], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The rows, in the order in which norms are measured."""
        return (TREE, *(name for name, _ in self.groups))

    def empty(self) -> dict[str, np.ndarray]:
        """The rows before the first step, in the order of `FREE` and `NORMS`."""
        extra = len(NORMS) if self.norms else 0
        rows = {TREE: np.zeros(len(FREE) + extra, np.float32)}
        for name, _ in self.groups:
            rows[name] = np.zeros(1 + extra, np.float32)
        return rows
