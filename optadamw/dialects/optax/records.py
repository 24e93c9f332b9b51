"""Find the records in a state of Optax: Adam's, and others that hold numbers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import optax

from optadamw.dialects.states.arrays import scalar

ADAM = {"count", "mu", "nu"}
ADAMS = (optax.ScaleByAdamState, optax.ScaleByAmsgradState)
COUNTS = (
    *("count", "step", "mini_step", "gradient_step"),
    *("notfinite_count", "last_finite", "total_notfinite"),
)
"""Scalars that only count, which a State does for itself."""

BESIDE = {
    "hyperparams": "inner_state",
    "acc_grads": "mini_step",
    "skip_state": "mini_step",
    "found_nan": "found_nan",
}
"""Fields that may be left out, if the second field is in the same record."""


class Record(NamedTuple):
    """A record of fields, and its path from the root."""

    path: str
    kind: str
    """The name of its class."""
    fields: Mapping[str, Any]


class Foreign(NamedTuple):
    """A state with numbers that no State has a place for."""

    path: str
    kind: str
    encloses: bool
    """Whether Adam's record stands inside it."""


def fields_of(node: Any) -> dict[str, Any] | None:
    """Return the fields of a NamedTuple, or of the dict that Orbax makes of one."""
    if isinstance(node, Mapping):
        return {str(key): value for key, value in node.items()}
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return dict(zip(node._fields, node, strict=True))
    return None


def windows_in(tree: Any) -> list[Mapping[str, Any]]:
    """Find the records of `MultiSteps`."""
    return [record.fields for record in _records(tree, {"mini_step", "acc_grads"})]


def hyperparams_in(tree: Any, adam: Record) -> dict[str, Any]:
    """Return the numbers that `inject_hyperparams` keeps around a record of Adam.

    Those of schedules are left out: they are the numbers of the last step.
    """
    found: dict[str, Any] = {}
    for record in _records(tree, {"hyperparams", "inner_state"}):
        if adam.path.startswith(_below(record.path, "inner_state")):
            scheduled = record.fields.get("hyperparams_states") or {}
            numbers = record.fields["hyperparams"]
            found |= {k: v for k, v in numbers.items() if k not in scheduled}
    return found


def numbers_in(tree: Any, count: int) -> dict[str, float]:
    """Return the numbers that `inject_hyperparams` keeps, for `optadamw convert`.

    A learning rate is taken from any record, and from a schedule too: it is that of the
    last step. The others are those around Adam, if one is found.
    """
    del count
    found: dict[str, Any] = {}
    for record in _records(tree, {"hyperparams"}):
        numbers = fields_of(record.fields["hyperparams"]) or {}
        if numbers.get("learning_rate") is not None:
            found.setdefault("learning_rate", numbers["learning_rate"])
    adams = adams_in(tree)
    around = hyperparams_in(tree, adams[0]) if len(adams) == 1 else {}
    names = ("learning_rate", "b1", "b2", "eps", "eps_root", "weight_decay")
    found |= {name: x for name, x in around.items() if name in names and x is not None}
    return {name: scalar(name, number) for name, number in found.items()}


def adams_in(tree: Any) -> list[Record]:
    """Find the records of Optax's Adam and AMSGrad."""
    return [record for record, is_adam in _alike(tree) if is_adam]


def lookalikes_in(tree: Any) -> list[Record]:
    """Find the records with Adam's fields that are of another class."""
    return [record for record, is_adam in _alike(tree) if not is_adam]


def _alike(tree: Any) -> Iterator[tuple[Record, bool]]:
    for record in _records(tree, ADAM):
        is_plain = set(record.fields) <= {*ADAM, "nu_max"}
        yield record, record.kind in _ADAM_KINDS or (not record.kind and is_plain)


_ADAM_KINDS = tuple(kind.__name__ for kind in ADAMS)


def _records(tree: Any, wanted: set[str], path: str = "") -> Iterator[Record]:
    """Find the records with these fields, but for those inside of Adam's."""
    fields = fields_of(tree)
    if fields is not None and wanted <= set(fields):
        yield Record(path, _kind(tree), fields)
    if fields is not None and set(fields) >= ADAM:
        return  # below are parameters, whatever they are called
    for name, child in _children(tree):
        if fields is None or name not in ("mu", "nu", "nu_max", "acc_grads"):
            yield from _records(child, wanted, _below(path, name))


def _kind(node: Any) -> str:
    """Return the name of the class of a record; "" for a dict."""
    if isinstance(node, ADAMS):
        return next(kind.__name__ for kind in ADAMS if isinstance(node, kind))
    if isinstance(node, Mapping):
        return ""
    name = type(node).__name__
    # One of another package that is called the same is not the same.
    return name if name not in _ADAM_KINDS else f"{type(node).__module__}.{name}"


def _children(node: Any) -> Sequence[tuple[str, Any]]:
    fields = fields_of(node)
    if fields is not None:
        return list(fields.items())
    if isinstance(node, tuple | list):
        return [(str(i), child) for i, child in enumerate(node)]
    return []


def _below(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def foreign_in(tree: Any, adam: Record) -> list[Foreign]:
    """Find the states beside and around Adam's that hold numbers of their own."""
    found: dict[str, Foreign] = {}
    for one in _foreign(tree, "", None, adam.path):
        found.setdefault(one.path, one)
    return list(found.values())


def _foreign(
    node: Any, path: str, inside: Foreign | None, adam: str
) -> Iterator[Foreign]:
    if path == adam:
        return
    fields = fields_of(node)
    encloses = not path or adam.startswith(f"{path}/")
    if fields is None and not isinstance(node, tuple | list):
        if _is_number(node):
            yield inside or Foreign(path, type(node).__name__, False)
        return
    is_record = fields is not None and not isinstance(node, Mapping)
    if is_record or (fields is not None and (inside is None or inside.encloses)):
        inside = Foreign(path, _kind(node) or "dict", encloses)
    elif fields is None and encloses:
        inside = None  # what stands beside Adam in a chain is a state by itself
    for name, child in _children(node):
        if fields is None or not _is_understood(name, child, fields):
            yield from _foreign(child, _below(path, name), inside, adam)


def _is_understood(name: str, value: Any, fields: Mapping[str, Any]) -> bool:
    is_scalar = not _children(value) and getattr(value, "shape", ()) == ()
    return (name in COUNTS and is_scalar) or BESIDE.get(name) in fields


def _is_number(leaf: Any) -> bool:
    if leaf is None or isinstance(leaf, str):
        return False
    return bool(getattr(leaf, "size", 1))
