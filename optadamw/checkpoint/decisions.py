"""Decide which fields of a State are restored, and why the others start afresh."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from optadamw.checkpoint.kinds import is_by_group, kinds_are_checked
from optadamw.checkpoint.meaning import key_of
from optadamw.checkpoint.names import Name
from optadamw.checkpoint.portable import Saved
from optadamw.checkpoint.record import Meaning
from optadamw.checkpoint.window import WINDOW, OnPartial, starts_afresh
from optadamw.store.state import is_custom, is_scales

REMEDY = {
    "ema": "Start the average afresh with afresh=('ema',).",
    "mu": "Restore with the sign it had, or start the moments afresh with "
    "afresh=('mu',).",
    "nu_max": "Use the amsgrad that it was saved with, or start the maximum afresh "
    "with afresh=('nu_max',): it grows again from the second moment.",
}

BY_GROUP = (
    " A file that is saved without the parameters names the groups alone. If each "
    "parameter has the kind that it had, restore with the groups of the file, and step "
    "that state with the new `tx`."
)
"""The remedy if the groups differ, and the kinds of all parameters perhaps do not."""

UNNAMED = (
    " A lambda or an inner function has no name that tells it in another process: "
    "choose such a group by a pattern or by a function of a module, or save the "
    "parameters with the state."
)
"""The remedy for later files, if a group was chosen by such a function."""

UNSAID = {"ema": "the average of ema_params"}
"""The meaning of a field of which a file says none."""

STARTS = {
    "mu": "mu starts at zero",
    "nu": "nu starts at zero",
    "nu_max": "nu_max starts at zero and takes the second moment at the next step",
    "ema": "ema starts as a copy of the parameters that were given",
    "accumulator": "accumulation begins with an empty window",
    "residual": "residual starts as if the parameters had been written exactly",
    "micro_step": "",  # the accumulator's sentence says it
    "weight": "",
    "loss_scale": "loss_scale starts at its initial value",
    "growth": "",
    "events": "all counters start at zero",
    "history": "the spike guard starts without history",
    "stats": "statistics are zero until the next step",
}
"""For each field, the note of the report if the field was not saved."""


@dataclass
class Decisions:
    """The fields that start afresh, and the notes that the report gives on them."""

    fresh: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    filled: int = 0
    """The number of micro-batches in the saved window."""

    def start(self, name: str, why: str = "") -> None:
        """Let a field start afresh, and note why."""
        self.fresh.add(name)
        if why:
            self.notes.append(why)


def decided(
    scope: str,
    fields: tuple[str, ...],
    saved: Saved,
    new: Meaning | None,
    partial_window: OnPartial,
    afresh: tuple[str, ...],
    was: Mapping[str, str | None],
) -> Decisions:
    """Decide about the fields of the State at `scope`.

    Args:
      scope: the place of the State, as in `Name.scope`.
      fields: the fields of the new State.
      saved: the saved state.
      new: the meaning of the new State's numbers; None: unknown.
      partial_window: as in `restore`.
      afresh: as in `restore`.
      was: the saved path of each parameter by its present one; None: it is new.

    Raises:
      ValueError: the numbers of a saved buffer have another meaning than in the new
        State.
    """
    decisions = Decisions()
    old, step = saved.meaning.get(scope), saved.steps[scope]
    present = {name for name in saved.fields[scope] if not is_scales(name)}
    fields = tuple(name for name in fields if not is_scales(name))
    for name in afresh:
        if name in fields:
            decisions.start(name, f"{_start(name, step)}, as asked")
    for name in fields:
        if name not in present and name not in decisions.fresh:
            decisions.start(name, _start(name, step))
    _decide_window(scope, fields, saved, new, partial_window, decisions)
    if old is not None and new is not None:
        _decide_meaning(scope, fields, saved, new, decisions, was)
    elif present - {"step"}:
        decisions.notes.append(
            "what the saved numbers mean was not checked (the sign of mu, the kind of "
            "nu_max): " + _unknown(old, new)
        )
    return decisions


def _start(name: str, step: int) -> str:
    text = STARTS.get(name, f"{name} starts afresh")
    if name in ("mu", "nu") and step:
        text += f", and bias correction takes it for the mean of {step:,} gradients"
    return text


def _remedy(name: str) -> str:
    return (
        "Give one of the two slots another name, or start the buffer afresh with "
        f"afresh=({name!r},)."
    )


def _unknown(old: Meaning | None, new: Meaning | None) -> str:
    if old is None:
        return "pass made_by=<the transformation that made them>"
    return "pass inner=<the transformation inside tx>"


def _decide_window(
    scope: str,
    fields: tuple[str, ...],
    saved: Saved,
    new: Meaning | None,
    choice: OnPartial,
    decisions: Decisions,
) -> None:
    name = _leaf_name(scope, "micro_step")
    filled = int(saved.arrays[name]) if name in saved.arrays else 0
    decisions.filled, old = filled, saved.meaning.get(scope)
    reason = starts_afresh(filled, fields, old, new, choice)
    if reason is not None:
        decisions.notes.append(reason)
        decisions.fresh.update(name for name in WINDOW if name in fields)
    elif filled and choice == "keep" and old and new and old != new:
        was, now = (m.get("window") for m in (old, new))
        if was != now:
            decisions.notes.append(
                f"the open window goes on by the new rule: {now} instead of {was}"
            )


def _decide_meaning(
    scope: str,
    fields: tuple[str, ...],
    saved: Saved,
    new: Meaning,
    decisions: Decisions,
    paths: Mapping[str, str | None],
) -> None:
    old, present = saved.meaning[scope], set(saved.fields[scope])
    custom = {name: _remedy(name) for name in fields if is_custom(name)}
    for name, remedy in (REMEDY | custom).items():
        both = name in fields and name in present and name not in decisions.fresh
        key = key_of(name)
        if both and kinds_are_checked(name, old, new, paths, saved.arrays, remedy):
            continue
        if both and old.get(key) != new.get(key):
            was, here = (m.get(key, UNSAID.get(name)) for m in (old, new))
            text = f"`{name}` was saved as {was}; here it is {here}."
            by_group = any(is_by_group(str(one)) for one in (was, here))
            more = BY_GROUP if by_group else ""
            if " at 0x" in text:
                more += UNNAMED
            raise ValueError(f"{text} {remedy}{more}")
    for name in ("history", "stats", "residual"):
        if name in fields and name in present and old.get(name) != new.get(name):
            why = f"{STARTS[name]}: it held {old.get(name)}, now {new.get(name)}"
            decisions.start(name, why)
    counts = [_counts(meaning) for meaning in (old, new)]
    if "growth" in fields and "growth" in present and counts[0] != counts[1]:
        why = f"growth starts at 0: it counted {counts[0]}, now {counts[1]}"
        decisions.start("growth", why)
    if "loss_scale" in fields and "loss_scale" in present:
        _decide_scale(
            float(saved.arrays[_leaf_name(scope, "loss_scale")]), new, decisions
        )


def _counts(meaning: Meaning) -> str:
    """Return the unit in which a dynamic loss scale counts until it grows."""
    return meaning.get("loss_scale", {}).get("counts", "steps")


def _decide_scale(value: float, new: Meaning, decisions: Decisions) -> None:
    """Let the loss scale start afresh if the new settings exclude the saved one."""
    scale = new["loss_scale"]
    if scale["kind"] == "static" and scale["scale"] != value:
        why = f"loss_scale is {scale['scale']!r} as given, not {value!r} as saved"
        decisions.start("loss_scale", why)
    if scale["kind"] == "dynamic":
        low, high = scale["minimum"], scale["maximum"]
        if not low <= value <= high:
            why = f"loss_scale {value!r} as saved is not in [{low!r}, {high!r}]"
            decisions.start("loss_scale", f"{STARTS['loss_scale']}: {why}")


def _leaf_name(scope: str, name: str) -> str:
    return str(Name(scope, name, ""))
