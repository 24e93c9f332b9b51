"""The contents of a saved state: a row of arrays for each parameter, and counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from optadamw.dialects.states.peer import Maximum


class Row(NamedTuple):
    """One parameter of the other library, and its buffers."""

    label: str
    """The name of the parameter in messages."""
    name: str | None
    """The name of the parameter in the saved state; None if it has none."""
    buffers: Mapping[str, Any] | None
    """Its arrays by the field of State, or functions `name for errors -> array`, which
    are called one at a time so that not all are decoded at once; None: no state."""
    negated: bool = False
    """Whether its first moment is that of negated gradients (maximize)."""
    options: Mapping[str, Any] | None = None
    """Options of `adamw` that the saved state has for it; None: it has none."""


class Saved(NamedTuple):
    """One parameter of a state dict."""

    label: str
    name: str | None
    entries: Mapping[str, Any]
    """The state of the parameter; empty if it has none."""
    group: int
    options: Mapping[str, Any]
    """The options of its group."""


@dataclass(frozen=True)
class Contents:
    """A saved state, read and not yet checked against parameters."""

    rows: Sequence[Row]
    step: int
    """The number of optimizer steps taken."""
    micro_step: int = 0
    """The number of gradients in the open window."""
    accumulates: bool = False
    """Whether the optimizer accumulated gradients."""
    loss_scale: float | None = None
    growth: int | None = None
    maximum: Maximum = "raw"
    """Which second moments `nu_max` is the maximum of."""
    starts: tuple[str, ...] = ()
    """The buffers that start as zeros, if the state was saved before the first step."""
    own: tuple[str, ...] = ()
    """The buffers that no State has, which `drop` must name."""
    averages_later: bool = False
    """Whether the average has not begun; then it starts as a copy of the parameters."""
    hides_masks: bool = False
    """Whether `weight_decay` in the options may not be that of all parameters."""
    orders_maximum: bool = False
    """Whether to refuse a second moment above its maximum, which shows that buffers are
    confused; True if only their positions tell them apart."""

    @property
    def fields(self) -> frozenset[str]:
        """The names of the buffers that were saved, or that start as zeros."""
        rows = [row.buffers for row in self.rows if row.buffers is not None]
        kept = frozenset(field for buffers in rows for field in buffers)
        return kept or frozenset(self.starts)


def unquoted(label: str) -> str:
    """Return a label without quotes, to stand inside of quotes."""
    return label.replace("'", "")
