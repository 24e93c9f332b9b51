"""Check the results of a rule's methods while a step is traced."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from optadamw.rules.leaf import Leaf, Overwrite
from optadamw.rules.rule import Rule


def checked_leaf(rule: Rule, method: str, before: Leaf, after: Any) -> Leaf:
    """Return the result `after` of a rule's method, if it is a leaf of the same kind.

    Raises:
      TypeError: the result is no Leaf.
      ValueError: an array has another shape or dtype, or a buffer belongs to no slot.
    """
    call = f"{rule.verb}: {method}"
    if not isinstance(after, Leaf):
        raise TypeError(
            f"`{call}` must return a Leaf; got {_kind(after)}. End it with "
            "`return leaf._replace(...)`, `return leaf.keeping(...)` or, if nothing "
            "changes, `return leaf`."
        )
    wanted = before.numerator
    numbers: dict[str, Any] = {
        name: jnp.asarray(value, wanted.dtype)
        for name in ("numerator", "denominator")
        if isinstance(value := getattr(after, name), int | float | complex)
    }
    after = after._replace(**numbers) if numbers else after
    found = after.numerator
    if jnp.shape(found) != wanted.shape or jnp.result_type(found) != wanted.dtype:
        raise ValueError(
            f"`{call}` must return a numerator of the parameter's shape, "
            f"{wanted.dtype}{list(wanted.shape)}; got "
            f"{jnp.result_type(found)}{list(jnp.shape(found))}. Numbers that are the "
            "same for all elements are multiplied into it."
        )
    for name in ("denominator", "drift", "gradient", "second"):
        array = getattr(after, name)
        if array is not None and jnp.shape(array) not in ((), wanted.shape):
            raise ValueError(
                f"`{call}` must return a {name} of the parameter's shape, "
                f"{list(wanted.shape)}; got {list(jnp.shape(array))}."
            )
    if after.buffers is not before.buffers:
        _check_names(call, before.buffers, after.buffers)
    return after


def checked_commit(
    rule: Rule, before: Leaf, made: Any
) -> tuple[Leaf, Overwrite | None]:
    """Return the result `made` of `after_commit`, if it is a legal one.

    Raises:
      TypeError: the result is no pair of a Leaf and an Overwrite or None.
      ValueError: the leaf is not legal, see `checked_leaf`.
    """
    is_pair = isinstance(made, tuple) and not isinstance(made, Leaf) and len(made) == 2
    if not is_pair or not isinstance(made[1], Overwrite | None):
        raise TypeError(
            f"`{rule.verb}: after_commit` must return a Leaf and an Overwrite or None; "
            f"got {_kind(made)}. End it with `return leaf, None` or "
            "`return leaf, Overwrite(when, value)`."
        )
    return checked_leaf(rule, "after_commit", before, made[0]), made[1]


def check_written(
    rules: Sequence[Rule], before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    """Refuse a slot whose rule never writes it, or writes another shape into it.

    A slot that starts as a copy of the parameter need not be written: it holds the
    parameter at the beginning of the training.

    Raises:
      ValueError: a slot is refused; the message names rule and buffer.
    """
    for rule in rules:
        for slot in rule.slots:
            old, new = before[slot.name], after[slot.name]
            if new is old and slot.start == "zeros":
                raise ValueError(
                    f"{rule.verb} never writes its buffer `{slot.name}`, which would "
                    f"stay zero. Return leaf.keeping({slot.name}=...) from `apply` or "
                    "`after_commit`, or leave the slot out."
                )
            if jnp.shape(new) != jnp.shape(old):
                raise ValueError(
                    f"{rule.verb} writes an array of shape {jnp.shape(new)} into its "
                    f"buffer `{slot.name}`, which has shape {jnp.shape(old)}. A slot "
                    "holds one number for each element of a parameter."
                )


def _kind(value: Any) -> str:
    """Describe the type of a value, without the numbers of a traced array."""
    return "None" if value is None else f"a {type(value).__name__}"


def _check_names(
    call: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    surplus, missing = (
        sorted(set(after) - set(before)),
        sorted(set(before) - set(after)),
    )
    if surplus:
        raise ValueError(
            f"`{call}` writes the buffer `{surplus[0]}`, which is no slot; the slots "
            f"are: {', '.join(sorted(before)) or 'none'}. Add it to `slots`, or "
            "correct its name."
        )
    if missing:
        raise ValueError(
            f"`{call}` returns a leaf without the buffer `{missing[0]}`. Change "
            "buffers with leaf.keeping(...), which keeps the others."
        )
