"""The types of the parts of a record: its digest tells nothing of who wrote it."""

from collections.abc import Callable
from typing import Any

from optadamw.base.errors import shown
from optadamw.checkpoint.damage import damaged

Judge = Callable[[Any], bool]

KINDS = "parameters of each kind"
"""The key of the lists in the meaning of a State that `kinds` makes: paths by kind, by
field. No buffer of a user's rule can have this name."""


def check_form(record: dict[str, Any]) -> None:
    """Check the parts of a record that this version reads; later ones may have more.

    Raises:
      DamagedCheckpoint: a part is missing or of another type.
    """
    for name, (is_right, wanted) in PARTS.items():
        value = record.get(name, {} if name == "layouts" else None)
        _check(name, value, is_right, wanted)
    for settings in record["meaning"].values():
        for name in SETTINGS.keys() & settings.keys():
            _check(f"meaning of {name}", settings[name], *SETTINGS[name])


def _check(name: str, value: Any, is_right: Judge, wanted: str) -> None:
    if not is_right(value):
        raise damaged(
            f"The record of the checkpoint must have {wanted} as '{name}'; got "
            f"{shown(value)}."
        )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _all_in(kind: type, is_right: Judge) -> Judge:
    """Return a function that judges the entries of a list, or the values of a dict."""

    def judge(value: Any) -> bool:
        if not isinstance(value, kind):
            return False
        found: Any = value.values() if isinstance(value, dict) else value
        return all(is_right(one) for one in found)

    return judge


def _is_entry(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 3:
        return False
    dtype, shape, digest = value
    return _is_text(dtype) and _all_in(list, _is_whole)(shape) and _is_text(digest)


def _is_window(value: Any) -> bool:
    return isinstance(value, dict) and _is_whole(value.get("every", 1))


def _is_scale(value: Any) -> bool:
    return isinstance(value, dict) and _is_text(value.get("counts", ""))


_texts = _all_in(list, _is_text)

PARTS: dict[str, tuple[Judge, str]] = {
    "library": (_is_text, "a version"),
    "entries": (_all_in(dict, _is_entry), "a dict of [dtype, shape, digest]"),
    "fields": (_all_in(dict, _texts), "a dict of lists of fields"),
    "meaning": (_all_in(dict, lambda x: isinstance(x, dict)), "a dict of dicts"),
    # 0.1.0 did not write them at first.
    "layouts": (_all_in(dict, _texts), "a dict of lists of names"),
}
"""For each part of a record a function that judges it, and its type in words."""

SETTINGS: dict[str, tuple[Judge, str]] = {
    "mu": (_is_text, "a text"),
    "nu_max": (_is_text, "a text"),
    KINDS: (_all_in(dict, _all_in(dict, _texts)), "a dict of dicts of lists"),
    "rules": (_texts, "a list of texts"),
    "events": (_texts, "a list of texts"),
    "blocks": (lambda value: isinstance(value, dict), "a dict"),
    "window": (_is_window, "a dict with a whole number"),
    "loss_scale": (_is_scale, "a dict with a text"),
}
"""The settings of a State that are read, and not only compared and shown."""
