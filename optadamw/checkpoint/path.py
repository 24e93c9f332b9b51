"""The argument `path` of the functions that read and write files, and its folder."""

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


def check_folder(path: Path, name: str = "path") -> None:
    """Refuse the path of a file in a folder that does not exist.

    Args:
      path: the file that is to be written.
      name: the argument that gave it, for the error. Default: "path".

    Raises:
      FileNotFoundError: there is no such folder.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"`{name}`: there is no folder '{path.parent}' for the file '{path.name}'. "
            "Make it first, with os.makedirs."
        )
