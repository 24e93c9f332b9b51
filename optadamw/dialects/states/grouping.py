"""Parameter groups: which parameters share their options."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optadamw.base.errors import invalid, mistyped
from optadamw.dialects.states.leaving import Departure
from optadamw.dialects.states.peer import Peer
from optadamw.dialects.states.settings import Settings, negations, settings_of

Groups = Sequence[Mapping[str, Any]] | None
Group = tuple[dict[str, Any], Sequence[int]]
"""The options of a group, and the places of its parameters."""


def groups_of(
    leaving: Departure,
    groups: Groups,
    options_of: Callable[[Settings], dict[str, Any]],
) -> list[Group]:
    """Make the groups that the caller gave, or else those of `tx`.

    Args:
      leaving: the other arguments of the `to_` function.
      groups: The options of each parameter group, with the paths of its parameters
        under "params"; one group without "params" takes all parameters. None (default)
        takes the options from `tx`.
      options_of: the options of a group with these settings.

    Raises:
      TypeError, ValueError: groups that do not fit the parameters, neither groups nor
        `tx`, or a `tx` that the other library cannot follow.
    """
    if groups is not None:
        given = _given(leaving, groups)
        _check_signs(leaving, given)
        return given
    if leaving.tx is None:
        raise ValueError(
            f"The options of {leaving.peer.title}'s groups are not known. Pass tx=<the "
            "transformation that made `state`>, or groups=[{...}]."
        )
    rows = settings_of(leaving.tx, leaving.leaves, leaving.clock)
    made: list[tuple[dict[str, Any], list[int]]] = []
    gaps = []
    for place, (leaf, _) in enumerate(leaving.places):
        if leaf is None:
            gaps.append(place)
            continue
        _check_followed(leaving.peer, leaving.paths[leaf], rows[leaf])
        options = options_of(rows[leaf])
        members = next((m for o, m in made if o == options), None)
        if members is None:
            made.append((options, [place]))
        else:
            members.append(place)
    if gaps and made:
        made[0][1].extend(gaps)  # without a state, their options do not matter
        made[0][1].sort()
    return list(made)


def _check_signs(leaving: Departure, groups: Sequence[Group]) -> None:
    """Refuse groups that maximize where `tx` does not, or the reverse."""
    if leaving.tx is None or not leaving.peer.maximizes:
        return
    signs = negations(leaving.tx, leaving.leaves)
    for options, members in groups:
        there = bool(options.get("maximize", False))
        for place in members:
            leaf = leaving.places[place].leaf
            if leaf is not None and signs[leaf] != there:
                raise ValueError(
                    f"`tx` {'maximizes' if signs[leaf] else 'minimizes'} by "
                    f"'{leaving.paths[leaf]}', and its group has maximize={there}: its "
                    f"first moment would have the wrong sign. Give the group maximize="
                    f"{signs[leaf]}."
                )


def _check_followed(peer: Peer, path: str, settings: Settings) -> None:
    beyond = settings.beyond(peer.follows)
    if beyond:
        raise ValueError(
            f"`tx` has {', '.join(beyond)} for '{path}', which {peer.title} "
            "cannot follow. Give the options it is to go on with as groups=[{...}]."
        )
    if None in (settings.learning_rate, settings.b1, settings.eps):
        raise ValueError(
            "`tx` has no learning rate or no Adam in it, so the options of "
            f"{peer.title}'s groups are not known. Give them as groups=[{{...}}]."
        )


def numbers_of(settings: Settings) -> dict[str, Any]:
    """The four numbers of a group, under the names of PyTorch and its relatives."""
    return {
        "lr": settings.learning_rate,
        "betas": (settings.b1, settings.b2),
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
    }


def _given(leaving: Departure, given: Any) -> list[Group]:
    is_list = isinstance(given, Sequence) and not isinstance(given, str)
    if not is_list or not all(isinstance(group, Mapping) for group in given):
        raise mistyped("groups", "a list of dicts of options", given)
    if len(given) == 1 and "params" not in given[0]:
        return [(dict(given[0]), range(len(leaving.places)))]
    places = {
        leaving.paths[place.leaf]: i
        for i, place in enumerate(leaving.places)
        if place.leaf is not None
    }
    groups: list[Group] = []
    used: set[str] = set()
    for number, group in enumerate(given):
        members = group.get("params")
        if not isinstance(members, Sequence) or isinstance(members, str):
            raise mistyped(f"groups[{number}]['params']", "a list of paths", members)
        for path in members:
            if path not in places or path in used:
                raise invalid(
                    f"groups[{number}]['params']",
                    "made of paths of `params`, each in one group",
                    path,
                )
            used.add(path)
        options = {key: value for key, value in group.items() if key != "params"}
        groups.append((options, [places[path] for path in members]))
    lacking = [path for path in places if path not in used]
    if lacking:
        raise ValueError(f"`groups` lack '{lacking[0]}'. Put each path in one group.")
    return groups
