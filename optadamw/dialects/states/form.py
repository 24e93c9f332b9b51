"""What `optadamw convert` needs to know of each form, in one record with the peer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from optadamw.dialects.states.peer import Maximum, Peer
from optadamw.store.state import State


@dataclass(frozen=True)
class Plan:
    """The arguments of one conversion."""

    source: str
    target: str
    key: str | None = None
    names: Any = None
    to_names: Any = None
    transpose: tuple[str, ...] = ()
    to_transpose: tuple[str, ...] = ()
    missing: str = "error"
    drop: tuple[str, ...] = ()
    amsgrad: Maximum | None = None
    use_ema: bool = False
    accumulate: int | None = None
    learning_rate: float | None = None
    b1: float | None = None
    b2: float | None = None
    eps: float | None = None
    weight_decay: float | None = None


def nothing(plan: Plan) -> Mapping[str, Any]:
    """Give no argument beyond those that all functions share."""
    del plan
    return {}


def unchanged(saved: Any) -> Any:
    """Take what the file holds as the saved state."""
    return saved


@dataclass(frozen=True)
class Form:
    """The saved state of one library, as a form to convert from and to."""

    peer: Peer
    reads: Callable[..., State]
    """Its `from_` function."""
    writes: Callable[..., Any]
    """Its `to_` function."""
    is_state_dict: bool = False
    """Whether it is a state dict, with groups that hold numbers."""
    has_names: bool = False
    """Whether its parameters have names; otherwise they have an order."""
    needs_rate: bool = False
    """Whether its optimizer cannot go on without a learning rate in its state."""
    opened: Callable[[Any], Any] = unchanged
    """Makes what `reads` takes of what a file holds."""
    to_read: Callable[[Plan], Mapping[str, Any]] = nothing
    """The arguments that `reads` alone has."""
    to_write: Callable[[Plan], Mapping[str, Any]] = nothing
    """The arguments that `writes` alone has."""

    @property
    def name(self) -> str:
        """The name of the form on the command line."""
        return self.peer.name.replace("_", "-")
