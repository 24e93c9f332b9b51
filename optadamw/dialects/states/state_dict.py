"""PyTorch's form of a saved state, which its many relatives share.

    {"state": {index: {"step": ..., "exp_avg": ...}},
     "param_groups": [{"lr": ..., "params": [index, ...]}, ...]}

A parameter that never had a gradient stands in its group and not in "state".
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from optadamw.base.errors import at_leaf, invalid, mistyped
from optadamw.dialects.states.arrays import scalar, whole
from optadamw.dialects.states.contents import unquoted
from optadamw.dialects.states.naming import Place

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
"""What other states are known by."""


class Saved(NamedTuple):
    """One parameter of a state dict."""

    label: str
    name: str | None
    entries: Mapping[str, Any] | None
    group: int


def read(title: str, saved: Any) -> tuple[list[Saved], list[Mapping[str, Any]]]:
    """The parameters in their order, and the groups.

    Raises:
      TypeError, ValueError: it is no state dict, or contradicts itself.
    """
    groups = groups_in(title, saved)
    states = {_key(key): value for key, value in saved["state"].items()}
    found, seen = [], set()
    for number, group in enumerate(groups):
        keys = [_key(key) for key in _listed(group, "params", number)]
        names = group.get("param_names")
        if names is not None and len(names) != len(keys):
            raise ValueError(
                f"Group {number} of the saved state has {len(keys)} parameters and "
                f"{len(names)} 'param_names'. The file is damaged."
            )
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
            found.append(Saved(label, name, entries or None, number))
    if states:
        raise ValueError(
            f"The saved state has a state for parameter {next(iter(states))!r}, which "
            "is in none of its groups. The file is damaged."
        )
    return found, list(groups)


def groups_in(title: str, saved: Any) -> Sequence[Mapping[str, Any]]:
    """The groups of a state dict.

    Raises:
      TypeError, ValueError: it is none.
    """
    remedy = "Pass optimizer.state_dict(), or what torch.load gives of it."
    if not isinstance(saved, Mapping):
        raise mistyped("saved", f"a state dict of {title}", type(saved), remedy)
    if not is_state_dict(saved):
        shown = sorted(map(str, saved))[:8]
        raise invalid("saved", "a dict with 'state' and 'param_groups'", shown, remedy)
    groups: Sequence[Mapping[str, Any]] = saved["param_groups"]
    return groups


def is_state_dict(saved: Any) -> bool:
    """Whether it has what each state dict of an optimizer has."""
    return (
        isinstance(saved, Mapping)
        and isinstance(saved.get("state"), Mapping)
        and _is_list_of_mappings(saved.get("param_groups"))
    )


def starts(
    found: Sequence[Saved], groups: Sequence[Mapping[str, Any]]
) -> tuple[str, ...]:
    """What it would keep, where no step was taken: then nothing is there."""
    if any(one.entries is not None for one in found):
        return ()
    maximum = any(group.get("amsgrad", False) for group in groups)
    return ("mu", "nu", "nu_max") if maximum else ("mu", "nu")


def check_decay(one: Saved, group: Mapping[str, Any]) -> None:
    """Refuse Adam with L2, which is told from AdamW by its group alone."""
    if group.get("decoupled_weight_decay", True):
        return
    decay = scalar(f"weight_decay of group {one.group}", group.get("weight_decay", 0.0))
    if decay:
        raise at_leaf(
            unquoted(one.label),
            f"its group has weight_decay={decay!r} and decoupled_weight_decay=False. "
            "It is Adam with L2, which adds the decay to the gradient, so it went "
            "through the moments: another optimizer than AdamW.",
            "Convert a run of AdamW, or of Adam without weight decay.",
        )


def check_entries(
    title: str, one: Saved, needed: Collection[str], legal: Collection[str]
) -> None:
    """Refuse the state of another optimizer, by what it keeps."""
    assert one.entries is not None
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
    """The step at which all are; a State has one.

    Raises:
      ValueError: they are at different ones.
    """
    counts = {
        label: whole(f"step of {unquoted(label)}", step)
        for label, step in steps.items()
    }
    found = sorted(set(counts.values()))
    if len(found) > 1:
        by_step = [
            f"{count}: {_shown([label for label, c in counts.items() if c == count])}"
            for count in found[:4]
        ]
        raise ValueError(
            f"{title} has taken different numbers of steps for its parameters "
            f"({'; '.join(by_step)}), and a State counts one for all. Convert the "
            "groups one by one and train them with one transformation each."
        )
    return found[0] if found else 0


def written(
    places: Sequence[Place],
    entries_of: Callable[[int], dict[str, Any]],
    groups: Sequence[tuple[dict[str, Any], Sequence[int]]],
) -> dict[str, Any]:
    """A state dict; `groups` are options, and places in the order of the groups.

    PyTorch numbers parameters through its groups, so the order is that of `groups`.
    """
    states: dict[int, dict[str, Any]] = {}
    made: list[dict[str, Any]] = []
    for options, members in groups:
        first = sum(len(group["params"]) for group in made)
        group = dict(options)
        names = [places[place].name for place in members]
        if any(name is not None for name in names):
            group = {"param_names": names, **group}
        group["params"] = list(range(first, first + len(members)))
        for index, place in zip(group["params"], members, strict=True):
            if places[place].leaf is not None:
                states[index] = entries_of(place)
        made.append(group)
    return {"state": states, "param_groups": made}


def step_array(step: int) -> np.ndarray:
    """A step as PyTorch keeps it: float32, which holds it up to 2**24.

    Raises:
      ValueError: it does not hold it.
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
    """An index, also where a file made a string of it."""
    return int(key) if isinstance(key, str) and key.isdigit() else key


def _shown(labels: Sequence[str], most: int = 3) -> str:
    rest = len(labels) - most
    return ", ".join(labels[:most]) + (f" and {rest} more" if rest > 0 else "")
