"""A slot: the name, the format and the first value of a buffer for each parameter."""

from typing import Any, NamedTuple


class Slot(NamedTuple):
    """A buffer that a rule or a commit keeps between steps, one per parameter."""

    name: str
    """The field of `State` that holds the buffer. A name that is no field is a key of
    `State.custom`: a new name needs no edit of the library."""
    store: Any
    """The format of the buffer: a `Storage` for all leaves, a `Store` for one leaf."""
    start: str = "zeros"
    """The first value of the buffer: "zeros" (default), or "param" for a copy of the
    parameter."""


STARTS = ("zeros", "param")
"""The legal values of `Slot.start`."""
