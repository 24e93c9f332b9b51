"""The records that plots read: mappings of names to numbers, checked before drawing."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from optadamw.base.errors import invalid, mistyped, near

History: TypeAlias = Sequence[Mapping[str, Any]]
"""One record for each epoch or step of a training."""

ALONG = ("epoch", "step")
"""The fields along which histories are drawn, the first that is there."""

_REMEDY = (
    "A history is a list of mappings of names to numbers, such as "
    "stats_of(state).flat()."
)


def checked_histories(histories: Any) -> dict[str, list[Mapping[str, Any]]]:
    """Return the records under each label; raise if there are none or one is none."""
    if not isinstance(histories, Mapping):
        remedy = 'Give a history its label, as in {"AdamW": history}. ' + _REMEDY
        rule = "a mapping of labels to histories"
        raise TypeError(
            f"`histories` must be {rule}; got a {type(histories).__name__}. {remedy}"
        )
    if not histories:
        raise invalid("histories", "a mapping with at least one history", histories)
    return {
        str(label): checked_records(f"histories[{label!r}]", history)
        for label, history in histories.items()
    }


def checked_records(name: str, records: Any) -> list[Mapping[str, Any]]:
    """Return records as a list; raise if there are none or one is no mapping."""
    if isinstance(records, Mapping | str) or not hasattr(records, "__iter__"):
        raise mistyped(name, "a list of records", records, _REMEDY)
    rows = list(records)
    if not rows:
        raise invalid(name, "a list of at least one record", rows, _REMEDY)
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise mistyped(f"{name}[{index}]", "a mapping", row, _REMEDY)
    return rows


def column(name: str, records: History, field: str, choose: str) -> np.ndarray:
    """Return one field of all records; a value of None becomes NaN, which is a gap.

    Args:
      name: the name of the records in errors.
      records: the records.
      field: the name of the field.
      choose: the remedy in the error for a record without this field.
    """
    return np.array(
        [_number(f"{name}[{i}]", row, field, choose) for i, row in enumerate(records)]
    )


def is_number(value: Any) -> bool:
    """Whether a value of a record can be drawn: a real number, or a 0-d array of one.

    None can too: JSON has no NaN, and a summary has None for a loss that is not finite.
    """
    if value is None or isinstance(value, int | float | np.number | np.bool_):
        return True
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    return shape == () and dtype is not None and np.dtype(dtype).kind in "biufV"


def along(records: History, x: str | None) -> str:
    """Return the field along which a history is drawn: `x`, or the first of `ALONG`.

    A name may end with it, as "optimizer/step" does.
    """
    if x is not None:
        return x
    for wanted in ALONG:
        for field in records[0]:
            if field == wanted or field.endswith(f"/{wanted}"):
                return field
    raise ValueError(
        f"A record must have 'epoch' or 'step', or `x` the name of another field along "
        f"which the history is drawn; the first record has {listed(records[0])}."
    )


def listed(record: Mapping[str, Any]) -> str:
    """Return the names of the fields of a record, for a message."""
    return ", ".join(repr(field) for field in record) or "no field"


def _number(where: str, row: Mapping[str, Any], field: str, choose: str) -> float:
    if field not in row:
        most = f"It has {listed(row)}" if len(row) < 13 else f"Near: {near(field, row)}"
        raise ValueError(f"`{where}` has no field {field!r}. {most}. {choose}")
    value = row[field]
    if not is_number(value):
        raise mistyped(f"{where}[{field!r}]", "a number, or None for a gap", value)
    return float("nan") if value is None else float(value)
