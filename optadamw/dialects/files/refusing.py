"""The error for a file that is not whole, also in place of other packages' errors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from optadamw.checkpoint.bounds import TooLarge

_CODE = re.compile(r"\x1b\[[0-9;]*m")
"""A code by which PyTorch's messages are bold in a terminal."""


class DamagedFile(ValueError):
    """A file that is cut short, altered, or of another format than its name says."""


def brief(error: Exception) -> str:
    """Return the first line of another package's error, without codes of a terminal."""
    first = next(iter(str(error).splitlines()), type(error).__name__)
    told = _CODE.sub("", first).strip()
    # A number alone, as the key of a KeyError, says nothing.
    return f"{type(error).__name__}: {told}" if told.isdigit() else told


@contextmanager
def refusing(what: str, remedy: str = "") -> Iterator[None]:
    """Raise a DamagedFile for every error but that of a file that cannot be read."""
    try:
        yield
    except (OSError, TooLarge, DamagedFile):
        raise
    except Exception as error:  # pickle, zip, zlib, NumPy: more than can be listed
        raise DamagedFile(f"{what} ({brief(error)}).{remedy}") from error
