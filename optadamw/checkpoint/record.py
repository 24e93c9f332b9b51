"""The record in a checkpoint: a description of its arrays and of their meaning."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optadamw.checkpoint.damage import damaged
from optadamw.checkpoint.form import check_form
from optadamw.checkpoint.layouts import by_layout, by_name

FORMAT = 1
"""The version of names and record; later versions of the library read earlier formats.
"""
ENTRY = "optadamw.json"
"""The name of the record among the arrays."""

Meaning = Mapping[str, Any]
"""The meaning of a State's numbers, and the rules that made them, as JSON."""


@dataclass(frozen=True)
class Entry:
    """Dtype, shape and digest (`arrays.digests`) of one array."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class Record:
    """The description of a checkpoint that is saved with its arrays."""

    entries: Mapping[str, Entry]
    fields: Mapping[str, tuple[str, ...]]
    """The fields of each State, by its scope."""
    meaning: Mapping[str, Meaning]
    """The meaning of each State's numbers, by its scope, as far as it is known."""
    library: str
    layouts: Mapping[str, str] = field(default_factory=dict)
    """The layout of each array when it was saved, as text; empty: not known."""

    def packed(self) -> np.ndarray:
        """Return the record as an array of bytes, with a digest of its own."""
        body = {
            "format": FORMAT,
            "library": self.library,
            "entries": {
                name: [entry.dtype, list(entry.shape), entry.sha256]
                for name, entry in self.entries.items()
            },
            "fields": {scope: list(names) for scope, names in self.fields.items()},
            "meaning": dict(self.meaning),
            "layouts": by_layout(self.layouts),
        }
        text = _json({"record": body, "sha256": _digest(body)})
        return np.frombuffer(text.encode(), np.uint8)


def unpacked(array: Any) -> Record:
    """Read the record from an array of bytes.

    Raises:
      DamagedCheckpoint: the bytes are no record, or were altered, or a part of the
        record is missing or of another type.
      ValueError: the record has another format.
    """
    try:
        whole = json.loads(np.asarray(array).astype(np.uint8).tobytes())
        body = whole["record"]
        is_whole = _digest(body) == whole["sha256"]
        found = body["format"]
    except Exception as error:
        raise damaged(
            f"The record '{ENTRY}' of the checkpoint is unreadable."
        ) from error
    if not is_whole:
        raise damaged(f"The record '{ENTRY}' of the checkpoint was altered.")
    if found != FORMAT:
        raise ValueError(
            f"The checkpoint has format {found!r}, written by optadamw "
            f"{body.get('library')}; this version reads format {FORMAT}. Use a version "
            "of optadamw that is at least as new."
        )
    check_form(body)
    return Record(
        entries={
            name: Entry(dtype, tuple(shape), digest)
            for name, (dtype, shape, digest) in body["entries"].items()
        },
        fields={scope: tuple(names) for scope, names in body["fields"].items()},
        # Older files have addresses in the names of groups.
        meaning=without_addresses(body["meaning"]),
        library=body["library"],
        layouts=by_name(body.get("layouts", {})),
    )


_NAMED = re.compile(r"(<function [\w.]+) at 0x[0-9a-fA-F]+(?=>)")
"""The text of a function of a module, whose name tells it in every process. Lambdas and
inner functions have names with "<", which others have too, so they keep the address."""


def without_addresses(value: Any) -> Any:
    """Return JSON without the addresses of functions of modules.

    They differ by process. Two lambdas would be one group then, and `restore` would
    take the moments of one for those of the other, perhaps with the wrong sign.
    """
    if isinstance(value, str):
        return _NAMED.sub(r"\1", value)
    if isinstance(value, list):
        return [without_addresses(one) for one in value]
    if isinstance(value, dict):
        return {key: without_addresses(one) for key, one in value.items()}
    return value


def _digest(body: Any) -> str:
    return hashlib.sha256(_json(body).encode()).hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
