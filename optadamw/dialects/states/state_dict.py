"""PyTorch's form of a saved state, which its many relatives share.

    {"state": {index: {"step": ..., "exp_avg": ...}},
     "param_groups": [{"lr": ..., "params": [index, ...]}, ...]}

A parameter that never had a gradient stands in its group and not in "state".
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from optadamw.base.errors import invalid, mistyped, some
from optadamw.dialects.states.arrays import whole
from optadamw.dialects.states.contents import Contents, Row, Saved, unquoted
from optadamw.dialects.states.group_names import check_names
from optadamw.dialects.states.group_numbers import options_in
from optadamw.dialects.states.grouping import Group
from optadamw.dialects.states.leaving import Departure
from optadamw.dialects.states.peer import MOMENTS, Peer
from optadamw.dialects.states.relatives import (
    check_decay,
    check_entries,
    check_options,
)


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
        check_decay(one)
        check_options(one)
    for one in kept:
        check_entries(peer.title, one, needed, {*needed, *peer.keys.values(), *beside})
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


def groups_with_params(saved: Any) -> list[Mapping[str, Any]]:
    """Return the groups of a state dict that have parameters; [] for another state.

    Trainers also make groups without any, such as one without weight decay for a model
    that has no biases. Their numbers are those of no parameter.
    """
    groups = saved["param_groups"] if is_state_dict(saved) else ()
    return [g for g in groups if isinstance(p := g.get("params"), Sequence) and len(p)]


def is_state_dict(saved: Any) -> bool:
    """Whether an object has the two keys of every state dict of an optimizer."""
    return (
        isinstance(saved, Mapping)
        and isinstance(saved.get("state"), Mapping)
        and _is_list_of_mappings(saved.get("param_groups"))
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
    first = 0
    for options, members in groups:
        names = [leaving.places[place].name for place in members]
        named = {"param_names": names} if any(n is not None for n in names) else {}
        indices = list(range(first, first + len(members)))
        made.append({**named, **options, "params": indices})
        for index, place in zip(indices, members, strict=True):
            if leaving.places[place].leaf is not None:
                states[index] = entries_of(place)
        first += len(members)
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
