"""A slot: one buffer for every parameter, its name, its form and how it starts."""

from typing import Any, NamedTuple


class Slot(NamedTuple):
    """A buffer that a rule keeps between steps, one per parameter."""

    name: str
    """The field of `State` that holds it."""
    store: Any
    """How it is kept: a `Storage` for all leaves, a `Store` for one of them."""
    start: str = "zeros"
    """What it holds at first: "zeros", or "param" for a copy of the parameter."""
