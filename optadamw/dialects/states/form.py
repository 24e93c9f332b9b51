"""The record of each peer for `optadamw convert`, which stands in its `state.py`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

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
    learning_rate: float | Literal["schedule"] | None = None
    """"schedule": Keras's optimizer, which then has no rate in its file."""
    b1: float | None = None
    b2: float | None = None
    eps: float | None = None
    weight_decay: float | None = None
    is_limited: bool = True


def with_known(plan: Plan, known: Mapping[str, Any]) -> Plan:
    """Fill in the options that were not given and that the file knows.

    Args:
      plan: the arguments of the conversion.
      known: numbers by the arguments of `adamw`, and with `amsgrad`, `use_ema` (True or
        False) and `accumulate` (1: none) what the saved optimizer was made with.

    Raises:
      ValueError: an option was given that the saved optimizer did not have.
    """
    found = {name: x for name, x in known.items() if getattr(plan, name) is None}
    if "use_ema" in known:
        found["use_ema"] = known["use_ema"]
    for name in KEYS.keys() & known.keys():
        given, there = getattr(plan, name), known[name]
        is_other = given != there if name == "accumulate" else not there
        if given and is_other:
            raise ValueError(
                f"`--{name.replace('_', '-')}` is given, and the optimizer in the file "
                f"was made with {KEYS[name]}={there!r}. Leave it out."
            )
    if "amsgrad" in found:
        found["amsgrad"] = "raw" if found["amsgrad"] else None
    if found.get("accumulate") == 1:
        found["accumulate"] = None
    return replace(plan, **found)


KEYS = {
    "amsgrad": "amsgrad",
    "use_ema": "use_ema",
    "accumulate": "gradient_accumulation_steps",
}
"""What Keras calls the options that say which variables an optimizer has."""


def nothing(plan: Plan) -> Mapping[str, Any]:
    """Give no argument beyond those that all functions share."""
    del plan
    return {}


def no_numbers(saved: Any, count: int) -> Mapping[str, float]:
    """Find no number of the run: the form has none, or has them in its groups."""
    del saved, count
    return {}


def unchanged(saved: Any) -> Any:
    """Take what the file holds as the saved state."""
    return saved


def is_chosen(path: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern matches the path of a parameter."""
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def transposing(patterns: Sequence[str]) -> Callable[[str, np.ndarray], Any] | None:
    """Return the `layout` that transposes arrays of matching parameters, or None.

    The layout refuses arrays of more than two axes, such as kernels of convolutions.
    """
    if not patterns:
        return None

    def layout(path: str, array: np.ndarray) -> np.ndarray:
        if not is_chosen(path, patterns):
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
    numbers: Callable[[Any, int], Mapping[str, float]] = no_numbers
    """Finds the numbers of the run in a saved state of so many parameters."""
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
    def may_lack_rate(self) -> bool:
        """Whether the state is without its learning rate if that has a schedule."""
        return "learning_rate" in self.written_with and not self.needs_rate

    @property
    def name(self) -> str:
        """The name of the form on the command line."""
        return self.peer.name.replace("_", "-")
