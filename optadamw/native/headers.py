"""The header files of C around the loops of a kernel."""

from functools import lru_cache
from importlib.resources import files


@lru_cache
def header(name: str) -> str:
    """Return the text of a file of `c/`, named without its ending."""
    return (files("optadamw.native") / "c" / f"{name}.h").read_text()
