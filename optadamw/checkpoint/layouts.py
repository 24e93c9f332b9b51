"""Layouts as text, so that a report of a restore can say which leaves moved."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding

from optadamw.store.layout import parts_of


def layout_of(leaf: Any) -> str | None:
    """Return the layout of an array as text; None for a leaf that is not on a device.

    One layout has one text: `P("data", None)` and `P("data")` are both "P('data')".
    """
    sharding = getattr(leaf, "sharding", None)
    if sharding is None or isinstance(leaf, jax.core.Tracer):
        return None
    if len(sharding.device_set) == 1:
        return "one device"
    if not isinstance(sharding, NamedSharding):
        return repr(sharding)
    mesh = ", ".join(f"{name}={size}" for name, size in sharding.mesh.shape.items())
    parts = parts_of(sharding.spec)
    while parts and not parts[-1]:
        parts.pop()
    spec = ", ".join(_entry(part) for part in parts)
    kind = sharding.memory_kind
    memory = f" in {kind}" if kind not in (None, "device") else ""
    return f"P({spec}) on {mesh}{memory}"


def _entry(part: tuple[str, ...]) -> str:
    if not part:
        return "None"
    return repr(part[0]) if len(part) == 1 else repr(part)


def layouts_of(pairs: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """Return the layout of each named leaf that has one."""
    found = ((name, layout_of(leaf)) for name, leaf in pairs)
    return {name: layout for name, layout in found if layout is not None}


def by_layout(layouts: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the names of the leaves of each layout: a record holds each text once."""
    groups: dict[str, list[str]] = {}
    for name, layout in layouts.items():
        groups.setdefault(layout, []).append(name)
    return groups


def by_name(groups: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Undo `by_layout`."""
    return {name: layout for layout, names in groups.items() for name in names}
