"""Read a saved state from any of the forms that `restore` accepts."""

from collections.abc import Mapping
from typing import Any

import jax

from optadamw.base.errors import mistyped
from optadamw.checkpoint.portable import Saved, described, opened
from optadamw.checkpoint.record import ENTRY


def source_of(saved: Any) -> Saved:
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
        saved = described(saved, None, "saved")
    return saved


def _looks_portable(saved: Any) -> bool:
    """Return whether `saved` is a mapping of `to_portable` that lost its record."""
    if not isinstance(saved, Mapping):
        return False
    # JAX has no nodes of other mappings, such as that of np.load.
    is_file = jax.tree_util.all_leaves([saved])
    return is_file or any(isinstance(name, str) and "/" in name for name in saved)
