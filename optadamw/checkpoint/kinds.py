"""The kind of the numbers in a buffer of each parameter, where groups have several.

The text of a group, such as "groups['*/bias']", is its choice as a user wrote it. In
another process the choice may be written otherwise, or be a function of the same name
that chooses other parameters. So a record lists the parameters of each kind.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import optax

from optadamw.base.errors import at_leaf
from optadamw.base.tree import flatten
from optadamw.base.types import PyTree
from optadamw.checkpoint.inside import transformations_in
from optadamw.checkpoint.names import Name
from optadamw.checkpoint.record import Meaning
from optadamw.rules.amsgrad import Maximum
from optadamw.rules.groups import Variant
from optadamw.rules.maximize import Maximize
from optadamw.transforms.transformation import Transformation
from optadamw.walk.composition import Composition
from optadamw.walk.plan import plan_of

KINDS = "kinds"
"""The key of the lists in the meaning of a State: paths by kind, by field."""

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
    for field in _fields(composition):
        texts = [KIND[field](rules) for rules in composition.variants]
        names = [group.name for group in composition.groups]
        if len(set(texts)) == 1:
            told[field] = texts[0]
        else:
            pairs = zip(names, texts, strict=True)
            told[field] = "; ".join(f"{name}: {text}" for name, text in pairs)
    return told


def _fields(composition: Composition) -> list[str]:
    slots = {slot.name for slot in composition.slots}
    return [field for field in KIND if field in slots]


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
      params: all parameters.
      names: the names of the leaves of the states.
    """
    found = transformations_in(tx)
    if len(found) != 1 or set(meanings) != {""}:
        return dict(meanings)
    composition = found[0].recipe.composition
    fields = [
        field
        for field in _fields(composition)
        if len({KIND[field](rules) for rules in composition.variants}) > 1
    ]
    if not fields:
        return dict(meanings)
    leaves = flatten(params)
    has_frozen = any(group.is_frozen for group in composition.groups)
    if not (has_frozen and isinstance(tx, Transformation)):
        # Inside `optax.masked` it has a part of them, and `params` may be another tree.
        fields = [f for f in fields if all(_of(f, p) in names for p in leaves.paths)]
        if not fields:
            return dict(meanings)
    groups = [row.group for row in plan_of(composition, leaves, params).rows]
    kinds: dict[str, Any] = {}
    for field in fields:
        kinds[field] = {}
        for path, group in zip(leaves.paths, groups, strict=True):
            if not composition.is_frozen(group):
                kind = KIND[field](composition.variants[group])
                kinds[field].setdefault(kind, []).append(path)
    return {"": {**meanings[""], KINDS: kinds}}


def kinds_are_checked(
    field: str,
    old: Meaning,
    new: Meaning,
    paths: Mapping[str, str | None],
    remedy: str,
) -> bool:
    """Compare the kinds of a field's numbers parameter by parameter, if they are known.

    Args:
      field: the field.
      old: the saved meaning.
      new: the present meaning.
      paths: the saved path of each parameter by its present one; None: it is new.
      remedy: the remedy that the error names.

    Returns:
      False if neither side lists parameters, or one side has groups without a list: it
      is a file that was saved without the parameters.

    Raises:
      ValueError: a parameter has another kind than it had.
    """
    if not any(field in meaning.get(KINDS, {}) for meaning in (old, new)):
        return False
    saved = {path for path in paths.values() if path is not None}
    before, here = _by_path(field, old, saved), _by_path(field, new, paths)
    if before is None or here is None:
        return False
    for path, was in paths.items():
        kinds = (None if was is None else before.get(was)), here.get(path)
        if None not in kinds and kinds[0] != kinds[1]:
            raise at_leaf(
                _of(field, path),
                f"it was saved as {kinds[0]}; here it is {kinds[1]}.",
                remedy,
            )
    return True


def _by_path(
    field: str, meaning: Meaning, paths: Collection[str]
) -> dict[str, str] | None:
    """Return the kind of each parameter that has the field; None: it is not known."""
    listed = meaning.get(KINDS, {}).get(field)
    if listed is not None:
        return {path: kind for kind, those in listed.items() for path in those}
    if field not in meaning or is_by_group(meaning[field]):
        return None
    return {path: meaning[field] for path in paths}


def is_by_group(text: str) -> bool:
    """Return whether `kinds_by_group` made a text of several groups."""
    return "; rest: " in text


def _of(field: str, path: str) -> str:
    return str(Name("", field, path))
