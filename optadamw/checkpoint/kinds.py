"""The kind of the numbers in a buffer of each parameter, where groups have several.

The text of a group, such as "groups['*/bias']", is its choice as a user wrote it. In
another process the choice may be written otherwise, or be a function of the same name
that chooses other parameters. So a record lists the parameters of each kind.
"""

from collections.abc import Callable, Collection, Iterable, Mapping

import optax

from optadamw.base.errors import at_leaf
from optadamw.base.tree import flatten
from optadamw.base.types import PyTree
from optadamw.checkpoint.form import KINDS
from optadamw.checkpoint.inside import transformations_in
from optadamw.checkpoint.names import Name, is_in
from optadamw.checkpoint.record import Meaning
from optadamw.rules.amsgrad import Maximum
from optadamw.rules.groups import Variant
from optadamw.rules.maximize import Maximize
from optadamw.walk.composition import Composition
from optadamw.walk.plan import plan_of

SIGN = {
    False: "the mean of the gradients",
    True: "the mean of the negated gradients (maximize)",
}


def _sign(rules: Variant) -> str:
    return SIGN[any(isinstance(rule, Maximize) for rule in rules)]


def _maximum(rules: Variant) -> str:
    kinds = [rule.kind for rule in rules if isinstance(rule, Maximum)]
    return f"the maximum of the {kinds[0]} second moments" if kinds else "not kept"


KIND: dict[str, Callable[[Variant], str]] = {"mu": _sign, "nu_max": _maximum}
"""For each field, the kind of its numbers by the rules of a group."""


def kinds_by_group(composition: Composition) -> dict[str, str]:
    """Describe the fields of `KIND` that there are, by group if the groups differ."""
    told = {}
    for field, kinds in _kinds(composition).items():
        names = [group.name for group in composition.groups]
        if len(set(kinds)) == 1:
            told[field] = kinds[0]
        else:
            pairs = zip(names, kinds, strict=True)
            told[field] = "; ".join(f"{name}: {kind}" for name, kind in pairs)
    return told


def _kinds(composition: Composition) -> dict[str, list[str]]:
    """Return for each field of `KIND` that there is the kind in each group."""
    slots = {slot.name for slot in composition.slots}
    return {
        field: [kind(rules) for rules in composition.variants]
        for field, kind in KIND.items()
        if field in slots
    }


def with_kinds(
    meanings: Mapping[str, Meaning],
    tx: optax.GradientTransformation,
    params: PyTree,
    names: Collection[str],
) -> dict[str, Meaning]:
    """Add to the meaning of a State the parameters of each kind, if groups differ.

    Args:
      meanings: the meaning of each State by its scope. Of several nothing is added,
        because each has a part of the parameters.
      tx: the transformation of the States.
      params: the parameters. Nothing is added if they are not those of the State: a
        part of them, others beside them, or those around `optax.masked`.
      names: the names of the leaves of the states.
    """
    found = transformations_in(tx)
    if len(found) != 1 or set(meanings) != {""}:
        return dict(meanings)
    composition = found[0].recipe.composition
    several = {
        f: kinds for f, kinds in _kinds(composition).items() if len(set(kinds)) > 1
    }
    if not several:
        return dict(meanings)
    members = _members(composition, params)
    lists: dict[str, dict[str, list[str]]] = {}
    for field, kinds in several.items():
        own = {name for name in names if is_in(name, field)}
        if own != {_of(field, path) for path in members}:
            continue
        lists[field] = {}
        for path, group in members.items():
            lists[field].setdefault(kinds[group], []).append(path)
    return {"": {**meanings[""], KINDS: lists}} if lists else dict(meanings)


def _members(composition: Composition, params: PyTree) -> dict[str, int]:
    """Return the group of each parameter that is not frozen; {} if it is not known."""
    leaves = flatten(params)
    try:
        rows = plan_of(composition, leaves, params).rows
    except Exception:  # patterns and functions of a user that expect another tree
        return {}
    pairs = zip(leaves.paths, (row.group for row in rows), strict=True)
    return {path: group for path, group in pairs if not composition.is_frozen(group)}


def kinds_are_checked(
    field: str,
    old: Meaning,
    new: Meaning,
    paths: Mapping[str, str | None],
    names: Collection[str],
    remedy: str,
) -> bool:
    """Compare the kinds of a field's numbers parameter by parameter, if they are known.

    Args:
      field: the field.
      old: the saved meaning.
      new: the present meaning.
      paths: the saved path of each parameter by its present one; None: it is new.
      names: the names of the saved leaves.
      remedy: the remedy that the error names.

    Returns:
      False if neither side lists parameters, or one of them does not tell the kind of
      each: a file that was saved without the parameters names groups alone.

    Raises:
      ValueError: a parameter has another kind than it had.
    """
    if not any(field in meaning.get(KINDS, {}) for meaning in (old, new)):
        return False
    kept = {
        path: was
        for path, was in paths.items()
        if was is not None and _of(field, was) in names
    }
    before, here = _by_path(field, old, kept.values()), _by_path(field, new, kept)
    if not (before.keys() >= set(kept.values()) and here.keys() >= kept.keys()):
        return False
    for path, was in kept.items():
        if before[was] != here[path]:
            raise at_leaf(
                _of(field, path),
                f"it was saved as {before[was]}; here it is {here[path]}.",
                remedy,
            )
    return True


def _by_path(field: str, meaning: Meaning, paths: Iterable[str]) -> dict[str, str]:
    """Return the kind of each parameter of which it is known."""
    listed = meaning.get(KINDS, {}).get(field)
    if listed is not None:
        return {path: kind for kind, those in listed.items() for path in those}
    if field not in meaning or is_by_group(meaning[field]):
        return {}
    return {path: meaning[field] for path in paths}


def is_by_group(text: str) -> bool:
    """Return whether `kinds_by_group` made a text of several groups."""
    return "; rest: " in text


def _of(field: str, path: str) -> str:
    return str(Name("", field, path))
