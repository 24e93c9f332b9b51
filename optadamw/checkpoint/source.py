"""Read a saved state from any of the forms that `restore` accepts."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import jax

from optadamw.base.errors import mistyped
from optadamw.checkpoint.names import AROUND, STATES
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


def without_counters(saved: Saved, scopes: Collection[str]) -> Saved:
    """Return a saved state of one State, if a counter beside it was taken for another.

    Files of the first weeks name a dict of "step" alone, the state of another
    transformation, as a State.

    Args:
      saved: the saved state.
      scopes: the scopes of the new States.
    """
    own = [scope for scope, fields in saved.fields.items() if fields != ("step",)]
    if set(scopes) != {""} or len(own) != 1 or len(saved.fields) == 1:
        return saved
    new = {scope: scope.replace(STATES, AROUND, 1) for scope in saved.fields}
    new[own[0]] = ""

    def renamed(by_name: Mapping[str, Any]) -> dict[str, Any]:
        found = {}
        for name, value in by_name.items():
            scope = next((s for s in new if name.startswith(f"{s}/")), None)
            rest = name if scope is None else new[scope] + name.removeprefix(scope)
            found[rest.removeprefix("/")] = value
        return found

    known = saved.meaning.get(own[0])
    return replace(
        saved,
        arrays=renamed(saved.arrays),
        layouts=renamed(saved.layouts),
        fields={"": saved.fields[own[0]]},
        meaning={} if known is None else {"": known},
    )


def _looks_portable(saved: Any) -> bool:
    """Return whether `saved` is a mapping of `to_portable` that lost its record."""
    if not isinstance(saved, Mapping):
        return False
    # JAX has no nodes of other mappings, such as that of np.load.
    is_file = jax.tree_util.all_leaves([saved])
    return is_file or any(isinstance(name, str) and "/" in name for name in saved)
