"""What a saved state holds, before it is a State: rows of arrays and a few counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from optadamw.dialects.states.peer import Maximum


class Row(NamedTuple):
    """One parameter of the other library, and what is kept for it."""

    label: str
    """How messages call it."""
    name: str | None
    """What the saved state calls it, if it does."""
    buffers: Mapping[str, Any] | None
    """Its arrays by our field, or functions `name for errors -> array`, called one at
    a time so that not all are decoded at once; None: it has no state."""
    negated: bool = False
    """Whether its first moment is that of negated gradients (maximize)."""


@dataclass(frozen=True)
class Contents:
    """A saved state, read and not yet checked against parameters."""

    rows: Sequence[Row]
    step: int
    """Optimizer steps taken."""
    micro_step: int = 0
    """Gradients in the window that is open."""
    accumulates: bool = False
    """Whether it was saved with accumulation."""
    loss_scale: float | None = None
    growth: int | None = None
    maximum: Maximum = "raw"
    """Which second moments `nu_max` is the maximum of."""
    starts: tuple[str, ...] = ()
    """The buffers that it would keep, where no step was taken and none is there."""
    own: tuple[str, ...] = ()
    """What it keeps and no State has; left behind only if asked."""
    averages_later: bool = False
    """Whether its average is not begun yet: the parameters take its place."""
    orders_maximum: bool = False
    """Whether a second moment above its maximum would prove them confused."""

    @property
    def fields(self) -> frozenset[str]:
        """The buffers that are there."""
        rows = [row.buffers for row in self.rows if row.buffers is not None]
        kept = frozenset(field for buffers in rows for field in buffers)
        return kept or frozenset(self.starts)


def unquoted(label: str) -> str:
    """A label for inside of quotes."""
    return label.replace("'", "")
