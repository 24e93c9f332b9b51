"""The names of parameters in the groups of a state dict."""

from collections.abc import Mapping, Sequence
from typing import Any


def names_in(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the parameters in their order; [] if one has no name.

    They are `param_names`, or the keys of a state that torch.distributed has gathered.
    """
    names: list[Any] = []
    for group in groups:
        own = group.get("param_names")
        if own is None:
            keys = group.get("params") or ()
            # A number that a file made a string of is no name.
            own = [None if str(key).isdigit() else key for key in keys]
        names += own
    return names if all(isinstance(name, str) for name in names) else []


def check_names(names: Any, group: int, count: int) -> None:
    """Refuse the 'param_names' of a group that do not name its `count` parameters."""
    if len(names) != count:
        raise ValueError(
            f"Group {group} of the saved state has {count} parameters and "
            f"{len(names)} 'param_names'. The file is damaged."
        )
    for name in names:
        if not isinstance(name, str | None):
            raise ValueError(
                f"'param_names' of group {group} of the saved state holds {name!r}, "
                "which is no name. The file is damaged."
            )
