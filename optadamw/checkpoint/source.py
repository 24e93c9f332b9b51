"""What was saved, in any of the forms in which it comes back."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from optadamw.base.errors import mistyped
from optadamw.checkpoint.portable import Saved, described, meanings, opened
from optadamw.checkpoint.record import ENTRY


def source_of(saved: Any, made_by: Any = None) -> Saved:
    """What was saved, checked, whatever form it comes in."""
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
    """Whether it has the flat names of a portable mapping, which lost its record."""
    if not isinstance(saved, Mapping):
        return False
    return any(isinstance(name, str) and "/" in name for name in saved)
