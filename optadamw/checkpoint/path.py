"""The argument `path` of the functions that read and write files."""

import os
from pathlib import Path
from typing import Any

from optadamw.base.errors import mistyped


def path_of(path: Any) -> Path:
    """Return `path` as a Path.

    Raises:
      TypeError: `path` is no str and no os.PathLike, but a number, bytes, a state, ...
    """
    if isinstance(path, str | os.PathLike):
        spelled = os.fspath(path)
        if isinstance(spelled, str):
            return Path(spelled)
    raise mistyped(
        "path",
        "a str or an os.PathLike of a str",
        path,
        'The path stands first, for example "run.npz".',
    )
