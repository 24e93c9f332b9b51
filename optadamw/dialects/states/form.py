"""The record of each peer for `optadamw convert`, which stands in its `state.py`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from optadamw.base.errors import at_leaf
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
    is_limited: bool = True


def nothing(plan: Plan) -> Mapping[str, Any]:
    """Give no argument beyond those that all functions share."""
    del plan
    return {}


def no_rate(saved: Any, count: int) -> float | None:
    """Find no learning rate: the form has none, or has it in its groups."""
    del saved, count
    return None


def unchanged(saved: Any) -> Any:
    """Take what the file holds as the saved state."""
    return saved


def transposing(patterns: Sequence[str]) -> Callable[[str, np.ndarray], Any] | None:
    """Return the `layout` that transposes arrays of matching parameters, or None.

    The layout refuses arrays of more than two axes, such as kernels of convolutions.
    """
    if not patterns:
        return None

    def layout(path: str, array: np.ndarray) -> np.ndarray:
        if not any(fnmatchcase(path, pattern) for pattern in patterns):
            return array
        if array.ndim > 2:
            raise at_leaf(
                path,
                f"it has {array.ndim} axes, and its transposition would exchange the "
                "axes of its window too.",
                "Choose matrices only, and convert kernels of convolutions in Python, "
                "with layout=lambda path, x: x.transpose(2, 3, 1, 0) for those of "
                "PyTorch.",
            )
        return array.T

    return layout


@dataclass(frozen=True)
class Form:
    """The saved state of one library, as a form to convert from and to."""

    peer: Peer
    reads: Callable[..., State]
    """The `from_` function of the peer."""
    writes: Callable[..., Any]
    """The `to_` function of the peer."""
    is_state_dict: bool = False
    """Whether the state is a state dict, whose groups hold numbers such as `lr`."""
    has_names: bool = False
    """Whether the state has its parameters by name; otherwise they have an order."""
    needs_rate: bool = False
    """Whether the optimizer needs the learning rate in its state."""
    rate: Callable[[Any, int], float | None] = no_rate
    """Finds the learning rate in a saved state of so many parameters; None without."""
    opened: Callable[[Any], Any] = unchanged
    """Converts the contents of a file to the first argument of `reads`."""
    filed: Callable[[Any], Any] = unchanged
    """Converts the result of `writes` to the contents of a file."""
    to_read: Callable[[Plan], Mapping[str, Any]] = nothing
    """The arguments that only this `from_` function has."""
    read_with: tuple[str, ...] = ()
    """The options that `to_read` takes from the plan."""
    to_write: Callable[[Plan], Mapping[str, Any]] = nothing
    """The arguments that only this `to_` function has."""
    written_with: tuple[str, ...] = ()
    """The numbers that the saved state holds; a state dict holds all of them."""

    @property
    def name(self) -> str:
        """The name of the form on the command line."""
        return self.peer.name.replace("_", "-")
