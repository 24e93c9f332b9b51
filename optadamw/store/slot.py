"""A slot: one buffer for every parameter, its name, its form and how it starts."""

from typing import Any, NamedTuple


class Slot(NamedTuple):
    """A buffer that a rule or a commit keeps between steps, one per parameter."""

    name: str
    """The field of `State` that holds the buffer. A name that is no field is a key of
    `State.custom`: no edit of the library is needed for a new one."""
    store: Any
    """How the buffer is kept: a `Storage` for all leaves, a `Store` for one of them."""
    start: str = "zeros"
    """What the buffer holds at first: "zeros" (default), or "param" for a copy of the
    parameter."""


STARTS = ("zeros", "param")
"""The legal values of `Slot.start`."""
