"""PyTorch's form of a saved state, which its many relatives share.

    {"state": {index: {"step": ..., "exp_avg": ...}},
     "param_groups": [{"lr": ..., "params": [index, ...]}, ...]}

A parameter that never had a gradient stands in its group and not in "state".
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from optadamw.base.errors import at_leaf, invalid, mistyped, some
from optadamw.dialects.states.arrays import scalar, whole
from optadamw.dialects.states.contents import Contents, Row, unquoted
from optadamw.dialects.states.group_names import check_names
from optadamw.dialects.states.group_numbers import options_in
from optadamw.dialects.states.grouping import Group
from optadamw.dialects.states.leaving import Departure
from optadamw.dialects.states.peer import MOMENTS, Peer

RELATIVES = {
    "state1": "bitsandbytes: use from_bitsandbytes",
    "__bnb_optimizer_quant_state__": "bitsandbytes: use from_bitsandbytes",
    "kahan_comp": "optimi: use from_optimi",
    "momentum_buffer": "SGD or Muon",
    "exp_inf": "Adamax",
    "mu_product": "torch.optim.NAdam, whose bias correction is another",
    "square_avg": "RMSprop or Adadelta",
    "exp_avg_sq_row": "Adafactor",
}
"""The keys by which states of other optimizers are known, and their names."""


class Saved(NamedTuple):
    """One parameter of a state dict."""

    label: str
    name: str | None
    entries: Mapping[str, Any]
    """The state of the parameter; empty if it has none."""
    group: int
    options: Mapping[str, Any]
    """The options of its group."""


def own_step(one: Saved) -> Any:
    """Return the step of a parameter, which PyTorch keeps in its entries."""
    return one.entries["step"]


def as_saved(one: Saved, key: str, step: int) -> Any:
    """Return an entry as it was saved."""
    del step
    return one.entries[key]


def contents_of(
    peer: Peer,
    found: Sequence[Saved],
    *,
    needed: Collection[str] = ("step",),
    beside: Collection[str] = (),
    step_of: Callable[[Saved], Any] = own_step,
    value_of: Callable[[Saved, str, int], Any] = as_saved,
) -> Contents:
    """Read the contents of a state dict whose entries `peer.keys` names.

    Args:
      peer: the library.
      found: the parameters, as `read` returns them.
      needed: entries that each parameter has besides its two moments.
      beside: entries that a parameter may have besides.
      step_of: the number of steps of a parameter; by default its entry "step".
      value_of: an entry at the common step, for `Row.buffers`; by default as saved.

    Raises:
      ValueError: the state of another optimizer; parameters at different steps.
    """
    needed = (*needed, peer.keys["mu"], peer.keys["nu"])
    kept = [one for one in found if one.entries]
    for one in found:
        _check_decay(one)
    for one in kept:
        _check_entries(peer.title, one, needed, {*needed, *peer.keys.values(), *beside})
    step = common_step({one.label: step_of(one) for one in kept}, peer.title)
    rows = []
    for one in found:
        keys = {f: peer.keys[f] for f in MOMENTS if peer.keys.get(f) in one.entries}
        buffers = {field: value_of(one, key, step) for field, key in keys.items()}
        negated = bool(one.options.get("maximize", False))
        told = options_in(one.options)
        rows.append(Row(one.label, one.name, buffers or None, negated, told))
    return Contents(rows, step, starts=_starts(found))


def _starts(found: Sequence[Saved]) -> tuple[str, ...]:
    """Return the buffers that start as zeros, if no parameter has taken a step."""
    if any(one.entries for one in found):
        return ()
    has_maximum = any(one.options.get("amsgrad", False) for one in found)
    return MOMENTS if has_maximum else ("mu", "nu")


def read(title: str, saved: Any) -> list[Saved]:
    """Return the parameters in their order.

    Raises:
      TypeError, ValueError: `saved` is no state dict, or contradicts itself.
    """
    groups = groups_in(title, saved)
    states = {_key(key): value for key, value in saved["state"].items()}
    found, seen = [], set()
    for number, group in enumerate(groups):
        keys = [_key(key) for key in _listed(group, "params", number)]
        names = group.get("param_names")
        if names is not None:
            check_names(names, number, len(keys))
        for place, key in enumerate(keys):
            if key in seen:
                raise ValueError(
                    f"Parameter {key!r} is twice in the groups of the saved state. "
                    "The file is damaged."
                )
            seen.add(key)
            name = names[place] if names is not None else None
            if name is None and isinstance(key, str):
                name = key  # states by name, as torch.distributed gathers them
            label = f"parameter {key!r}" + (f" ('{name}')" if names else "")
            entries = states.pop(key, None)
            if entries is not None and not isinstance(entries, Mapping):
                raise mistyped(f"saved['state'][{key!r}]", "a dict", entries)
            found.append(Saved(label, name, entries or {}, number, group))
    if states:
        raise ValueError(
            f"The saved state has a state for parameter {next(iter(states))!r}, which "
            "is in none of its groups. The file is damaged."
        )
    return found


def groups_in(title: str, saved: Any) -> Sequence[Mapping[str, Any]]:
    """Return the groups of a state dict.

    Raises:
      TypeError, ValueError: `saved` is no state dict.
    """
    remedy = "Pass optimizer.state_dict(), or what torch.load gives of it."
    if not isinstance(saved, Mapping):
        raise mistyped("saved", f"a state dict of {title}", saved, remedy)
    if not is_state_dict(saved):
        shown = sorted(map(str, saved))[:8]
        raise invalid("saved", "a dict with 'state' and 'param_groups'", shown, remedy)
    groups: Sequence[Mapping[str, Any]] = saved["param_groups"]
    return groups


def is_state_dict(saved: Any) -> bool:
    """Whether an object has the two keys of every state dict of an optimizer."""
    return (
        isinstance(saved, Mapping)
        and isinstance(saved.get("state"), Mapping)
        and _is_list_of_mappings(saved.get("param_groups"))
    )


def _check_decay(one: Saved) -> None:
    """Refuse Adam with L2, which only its group tells from AdamW."""
    for key in ("decoupled_weight_decay", "decouple_wd"):  # PyTorch's, optimi's
        if one.options.get(key, True):
            continue
        where = f"weight_decay of group {one.group}"
        decay = scalar(where, one.options.get("weight_decay", 0.0))
        if decay:
            raise at_leaf(
                unquoted(one.label),
                f"its group has weight_decay={decay!r} and {key}=False. It is Adam "
                "with L2, which adds the decay to the gradient, so it went through the "
                "moments: another optimizer than AdamW.",
                "Convert a run of AdamW, or of Adam without weight decay.",
            )


def _check_entries(
    title: str, one: Saved, needed: Collection[str], legal: Collection[str]
) -> None:
    """Refuse the state of another optimizer, which its entries tell."""
    for key in one.entries:
        if key not in legal:
            known = RELATIVES.get(str(key))
            of = f", as the state of {known}" if known else ""
            raise at_leaf(
                unquoted(one.label),
                f"it has '{key}'{of}; the state of {title} has "
                f"{', '.join(sorted(legal))}.",
                "Convert the state of AdamW or Adam.",
            )
    for key in needed:
        if one.entries.get(key) is None:
            raise at_leaf(
                unquoted(one.label),
                f"it lacks '{key}': {', '.join(map(str, one.entries)) or 'empty'}.",
                f"It is not the state of AdamW or Adam of {title}.",
            )


def common_step(steps: Mapping[str, Any], title: str) -> int:
    """Return the one step of all parameters.

    Raises:
      ValueError: parameters that have taken different numbers of steps.
    """
    counts = {
        label: whole(f"step of {unquoted(label)}", step)
        for label, step in steps.items()
    }
    found = sorted(set(counts.values()))
    if len(found) > 1:
        by_step = [
            f"{count}: {some([x for x, c in counts.items() if c == count], 3)}"
            for count in found[:4]
        ]
        raise ValueError(
            f"{title} has taken different numbers of steps for its parameters "
            f"({'; '.join(by_step)}), and a State counts one for all. Convert the "
            "groups one by one and train them with one transformation each."
        )
    return found[0] if found else 0


def written(
    leaving: Departure,
    groups: Sequence[Group],
    entries_of: Callable[[int], dict[str, Any]],
) -> dict[str, Any]:
    """Write a state dict: its groups, and the entries of each place.

    PyTorch numbers parameters through its groups, so the order is that of `groups`.
    """
    states: dict[int, dict[str, Any]] = {}
    made: list[dict[str, Any]] = []
    for options, members in groups:
        first = sum(len(group["params"]) for group in made)
        names = [leaving.places[place].name for place in members]
        named = {"param_names": names} if any(n is not None for n in names) else {}
        indices = list(range(first, first + len(members)))
        made.append({**named, **options, "params": indices})
        for index, place in zip(indices, members, strict=True):
            if leaving.places[place].leaf is not None:
                states[index] = entries_of(place)
    return {"state": states, "param_groups": made}


def moments_and_step(leaving: Departure) -> Callable[[int], dict[str, Any]]:
    """Return a function from a place to its entries in PyTorch: step and moments."""
    columns = leaving.columns()

    def entries(place: int) -> dict[str, Any]:
        moments = {key: column[place] for key, column in columns.items()}
        return {"step": step_array(leaving.step), **moments}

    return entries


def step_array(step: int) -> np.ndarray:
    """Return a step in float32, as PyTorch keeps it.

    Raises:
      ValueError: a step above 2**24, which float32 may not hold.
    """
    if step > 2**24:
        raise ValueError(
            f"`state` has taken {step:,} steps, and PyTorch counts them in float32, "
            "which is exact up to 2**24."
        )
    return np.array(step, np.float32)


def _is_list_of_mappings(groups: Any) -> bool:
    is_list = isinstance(groups, Sequence) and not isinstance(groups, str)
    return is_list and all(isinstance(group, Mapping) for group in groups)


def _listed(group: Mapping[str, Any], key: str, number: int) -> Sequence[Any]:
    found = group.get(key)
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise mistyped(f"saved['param_groups'][{number}]['{key}']", "a list", found)
    return found


def _key(key: Any) -> Any:
    """Return a name or an index, also where a file made a string of an index."""
    if not isinstance(key, int | np.integer | str):
        raise mistyped("a parameter in `saved`", "an index or a name", key)
    return int(key) if isinstance(key, str) and key.isdigit() else key
