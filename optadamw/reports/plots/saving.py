"""Write a figure to a file, and say in words why it cannot be written."""

import os
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from optadamw.base.errors import invalid, mistyped
from optadamw.checkpoint.path import check_folder


def saved(figure: Figure, path: Any) -> Path:
    """Write a figure in the format that the ending of `path` names, and return `path`.

    Raises:
      TypeError: `path` is no str and no os.PathLike.
      ValueError: the ending names no format that Matplotlib writes.
      OSError: the folder does not exist, or the file cannot be written.
    """
    if not isinstance(path, str | os.PathLike):
        raise mistyped("path", "a str or an os.PathLike, such as 'curves.png'", path)
    place = Path(path)
    formats = figure.canvas.get_supported_filetypes()
    if place.suffix[1:].lower() not in formats:
        endings = ", ".join(f".{ending}" for ending in sorted(formats))
        raise invalid("path", f"a file whose ending is one of {endings}", str(place))
    check_folder(place)
    figure.savefig(place, dpi=150)
    return place
