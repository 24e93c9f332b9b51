"""The numbers and options of AdamW in the groups of a state dict."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from optadamw.base.errors import mistyped, shown
from optadamw.dialects.states.arrays import scalar
from optadamw.dialects.states.peer import Peer


class Keys(NamedTuple):
    """The keys under which a group has a number."""

    key: str
    """The key of PyTorch and most of its relatives."""
    part: int | None
    """The index of the number under that key; None if it stands alone."""
    optimi: str
    """The key of optimi."""


PLACES = {
    "learning_rate": Keys("lr", None, "lr"),
    "b1": Keys("betas", 0, "beta1"),
    "b2": Keys("betas", 1, "beta2"),
    "eps": Keys("eps", None, "eps"),
    "weight_decay": Keys("weight_decay", None, "weight_decay"),
}
"""The keys of each number, by the argument of `adamw`."""


def number_in(group: Mapping[str, Any], place: Keys) -> float | None:
    """Return a number of a group; None if the group lacks it.

    Raises:
      TypeError, ValueError: the value is no number.
    """
    value = group.get(place.key, group.get(place.optimi))
    if value is not None and place.part is not None and place.key in group:
        is_listed = isinstance(value, Sequence) or getattr(value, "ndim", 0) == 1
        if isinstance(value, str) or not is_listed or len(value) != 2:
            raise mistyped(f"{place.key} of a group", "a pair of numbers", value)
        value = value[place.part]
    return None if value is None else scalar(f"`{place.key}` of a group", value)


OWNERS = {
    "caution": "timm",
    "corrected_weight_decay": "timm",
    "clipping_threshold": "timm",
    "decouple_lr": "optimi",
}
"""The options in a group that `optadamw convert` does not write, and their library."""

OF_DECAY = ("corrected_weight_decay", "decouple_lr")


def refuse_lost(
    groups: Sequence[Mapping[str, Any]], target: Peer, has_decay: bool
) -> None:
    """Refuse groups with options that a conversion would write as switched off.

    Args:
      groups: the groups of the saved state.
      target: the library whose groups are written.
      has_decay: whether the weight decay is given, and not that of the groups.

    Raises:
      ValueError: a group has such an option.
    """
    for name, owner in OWNERS.items():
        of_decay = name in OF_DECAY
        if of_decay and has_decay:
            continue
        given = [
            group[name]
            for group in groups
            if _is_on(group.get(name))
            and (not of_decay or number_in(group, PLACES["weight_decay"]))
        ]
        if given:
            call = f"to_{target.name}(state, params, tx=tx), with the `tx` that has it"
            if owner != target.name:
                call = f"to_{target.name}(state, params, groups=[...]), which loses it"
            remedy = f" Convert it in Python: {call}."
            if of_decay:
                remedy = f" --weight-decay gives {target.title} its own decay.{remedy}"
            raise ValueError(
                f"The groups of the saved state have {name}={shown(given[0])}, which "
                f"the command does not write.{remedy}"
            )


def _is_on(value: Any) -> bool:
    try:
        return bool(value)
    except Exception:  # an array of several numbers, of any library
        return True


def _number_or_none(group: Mapping[str, Any], key: str) -> float | None:
    value = group.get(key)
    return None if value is None else scalar(f"`{key}` of a group", value)


def options_in(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `adamw` that a group has, without the learning rate.

    Raises:
      TypeError, ValueError: a value that should be a number is none.
    """
    found: dict[str, Any] = {
        name: number_in(group, place)
        for name, place in PLACES.items()
        if name != "learning_rate"
    }
    if group.get("corrected_weight_decay"):
        found["weight_decay_mode"] = "corrected"
    else:
        found["weight_decay_mode"] = "schedule" if group.get("decouple_lr") else "lr"
    for name in ("amsgrad", "caution"):
        found[name] = bool(group[name]) if name in group else None
    if group.get("decouple_lr"):
        found["max_learning_rate"] = _number_or_none(group, "max_lr")
    if "clipping_threshold" in group:
        found["clip_update_rms"] = _number_or_none(group, "clipping_threshold") or 0.0
    return {name: value for name, value in found.items() if value is not None}
