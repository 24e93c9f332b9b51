"""Read a saved state from any of the forms that `restore` accepts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from optadamw.base.errors import mistyped
from optadamw.checkpoint.portable import Saved, described, meanings, opened
from optadamw.checkpoint.record import ENTRY


def source_of(saved: Any, made_by: Any = None) -> Saved:
    """Check a saved state in any of its forms, and return it as a `Saved`."""
    if isinstance(saved, str | bytes) or hasattr(saved, "__fspath__"):
        raise mistyped(
            "saved", "what was saved, not its path", saved, "Use load(path)."
        )
    if isinstance(saved, Mapping) and ENTRY in saved:
        saved = opened(saved)
    elif not isinstance(saved, Saved):
        if _looks_portable(saved):
            saved = opened(saved)  # refuses: the record is missing
        saved = described(saved, made_by, "saved")
    if made_by is not None and not saved.meaning:
        saved = replace(saved, meaning=meanings(made_by, saved.steps))
    return saved


def _looks_portable(saved: Any) -> bool:
    """Return whether `saved` is a mapping of `to_portable` that lost its record."""
    if not isinstance(saved, Mapping):
        return False
    return any(isinstance(name, str) and "/" in name for name in saved)
