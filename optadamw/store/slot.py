"""A slot: the name, the format and the first value of a buffer for each parameter."""

from typing import Any, NamedTuple


class Slot(NamedTuple):
    """A buffer that a rule or a commit keeps between steps, one per parameter.

    Attributes:
      name: the field of `State` that holds the buffer. A name that is no field is a key
        of `State.custom`: a new name needs no edit of the library.
      store: the format of the buffer, which `storage(...)` returns: a `Storage`, which
        the library replaces by the `Store` of each leaf.
      start: the first value of the buffer: "zeros" (default), or "param" for a copy of
        the parameter.
    """

    name: str
    store: Any
    start: str = "zeros"


STARTS = ("zeros", "param")
"""The legal values of `Slot.start`."""
