"""Restore a saved state by name, in the same transformation or another one."""

import operator
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import optax

from optadamw.base.errors import invalid, mistyped, no_transformation, shown
from optadamw.base.hyperparameters import switch
from optadamw.base.tree import flatten
from optadamw.base.types import PyTree
from optadamw.checkpoint.blocks import Form, scales_beside
from optadamw.checkpoint.decisions import decided
from optadamw.checkpoint.draft import Draft
from optadamw.checkpoint.kinds import with_kinds
from optadamw.checkpoint.matching import is_around, is_renamable, matched
from optadamw.checkpoint.names import Named, named_state
from optadamw.checkpoint.placed import placed
from optadamw.checkpoint.portable import Saved, meanings
from optadamw.checkpoint.rename import Renaming, old_paths
from optadamw.checkpoint.report import Report
from optadamw.checkpoint.source import source_of, without_counters
from optadamw.checkpoint.window import OnPartial, check_choice
from optadamw.store.state import State, is_custom, is_scales


def restore(
    tx: optax.GradientTransformation,
    params: PyTree,
    saved: Saved | Mapping[str, Any] | PyTree,
    *,
    rename: Renaming = None,
    cast: bool = False,
    partial_window: OnPartial = "refuse",
    afresh: Collection[str] = (),
    expect_step: int | None = None,
    made_by: optax.GradientTransformation | None = None,
    inner: optax.GradientTransformation | None = None,
    sharding: PyTree = None,
) -> tuple[PyTree, Report]:
    """Restore a saved state for `tx`, which may differ from the saved transformation.

    Each leaf of `tx.init(params)` is looked up by name in the saved state. A leaf that
    was saved is restored, a leaf that was not saved starts afresh, and the report lists
    both. A saved buffer whose numbers have another meaning in `tx` is refused.

    Args:
      tx: the transformation that continues the training: one of this library, or an
        Optax chain or wrapper around one.
      params: the parameters of the training. Buffers that start afresh are made from
        them, and restored buffers get their shardings.
      saved: the result of `load` or `to_portable`, `np.load` of such a file, a state of
        this library in memory, or the nested dicts in which Orbax restores a state
        without a target.
      rename: maps present paths of parameters or subtrees to the saved paths, or to
        None to let them start afresh; or a function that does so for one path. None
        (default): the paths are the same.
      cast: whether a leaf may be converted to another dtype of its kind, such as
        float32 to bfloat16. Default: False, which refuses another dtype. Blocks of 8
        bits along another axis are no other dtype: unless `tx` names an axis, they
        stay as they were saved.
      partial_window: what happens if the state was saved inside a window of
        accumulation. "refuse" (default) continues the window if `tx` is known to
        accumulate as the saved transformation did, and else raises. "keep" continues
        the window as `tx` counts; it raises if `tx` does not accumulate. "drop"
        discards the window's gradients.
      afresh: fields of State, or names of buffers in `State.custom`, that start afresh
        although they were saved. Default: none.
      expect_step: the number of optimizer steps that the saved state must have taken.
        None (default): any.
      made_by: the transformation that made `saved`, if `saved` has no record of it,
        such as a state in memory or the dicts of Orbax. None (default): without a
        record it is not checked that the saved numbers mean the same in `tx`.
      inner: the transformation of this library inside `tx`, needed only for
        `optax.inject_hyperparams`, in which it cannot be found. None (default): it is
        found in `tx`.
      sharding: the layout of the restored state, a tree that `state_sharding` makes.
        None (default): each leaf lies as `tx.init(params)` puts it.

    Returns:
      `(state, report)`: the state for `tx`, and a `Report` of what happened to each
      leaf, which prints as a text.

    Raises:
      DamagedCheckpoint: an entry of `saved` is missing or altered.
      ValueError: a leaf has another shape or dtype, a parameter was renamed, a buffer
        has another meaning (AMSGrad's kind, the sign of the first moment), a window is
        open, or step or format are not those expected. The message names the leaf and
        the remedy.
      TypeError: an argument has a type that is not allowed.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> from optadamw import checkpoint
      >>> params = {"w": jnp.ones(2)}
      >>> before = optadamw.adamw(1e-3, clip_global_norm=1.0)
      >>> saved = checkpoint.to_portable(before, before.init(params))
      >>> tx = optadamw.adamw(1e-3, ema_decay=0.999)
      >>> state, report = checkpoint.restore(tx, params, saved, expect_step=0)
      >>> report.kept, report.fresh
      (('step', 'mu/w', 'nu/w'), ('ema/w',))
    """
    _check_types(tx, cast, expect_step, made_by)
    check_choice(partial_window)
    source = source_of(saved)
    target = named_state(tx.init(params), "tx.init(params)")
    if sharding is not None:
        target = placed(target, sharding)
    source = without_counters(source, target.fields)
    _check_step(source, expect_step)
    _check_scopes(source, target)
    fields = _check_fields(afresh, source, target)
    # The record of a file sorts "states/10" before "states/2", and JAX the States by
    # number.
    steps = {scope: source.steps[scope] for scope in target.fields}
    if made_by is not None and not source.meaning:
        source = replace(source, meaning=meanings(made_by, steps))
    # Scales are restored together with their codes.
    names = [name for name in target.names if not is_scales(name.field)]
    paths = (name.path for name in names if is_renamable(name))
    has_trees = any(map(is_around, names))
    old = old_paths(rename, paths, flatten(params).paths, has_trees=has_trees)
    own = tx if inner is None else inner
    new = with_kinds(meanings(own, steps), own, params, {*map(str, names)})
    decisions = {
        scope: decided(scope, kept, source, new.get(scope), partial_window, fields, old)
        for scope, kept in target.fields.items()
    }
    free = {
        (scope, name)
        for scope, meaning in new.items()
        for name, axis in meaning.get("blocks", {}).items()
        if axis is None
    }
    draft = Draft(source, decisions, cast, free=free)
    places = {name: i for i, name in enumerate(target.names)}
    scales = source.scales
    sources = matched(
        names,
        [name for name in source.arrays if name not in scales],
        {scope: decision.fresh for scope, decision in decisions.items()},
        old,
    )
    leaves, target = list(target.leaves), target._replace(leaves=())
    for name, taken in zip(names, sources, strict=True):
        # Each fresh leaf is freed before the next one is restored: two whole states
        # might not fit in memory beside the parameters.
        at = places[name]
        second = scales_beside(name)
        beside = None if second is None else places.get(second)
        like = Form(leaves[at], None if beside is None else leaves[beside])
        made = draft.leaf(name, like, taken)
        leaves[at] = made.array
        if beside is not None:
            leaves[beside] = made.scales
    return target.unflatten(leaves), draft.report(new)


def _check_types(tx: Any, cast: Any, expect_step: Any, made_by: Any) -> None:
    """Check arguments whose wrong types would be taken for other values."""
    if not isinstance(tx, optax.GradientTransformation):
        raise no_transformation(tx)
    switch("cast", cast)
    if expect_step is not None and not _is_whole(expect_step):
        raise mistyped("expect_step", "a whole number of steps, or None", expect_step)
    if made_by is not None and not isinstance(made_by, optax.GradientTransformation):
        text = "the transformation that made the state, or None"
        raise mistyped("made_by", text, made_by)


def _is_whole(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def _check_fields(afresh: Any, source: Saved, target: Named) -> tuple[str, ...]:
    """Check the argument `afresh` against the names that a State can have here."""
    if isinstance(afresh, str) or not isinstance(afresh, Collection):
        raise mistyped("afresh", "a tuple of fields of State", afresh)
    of_rules = {
        name
        for fields in (*source.fields.values(), *target.fields.values())
        for name in fields
        if is_custom(name)
    }
    named = [name for name in State._fields if name not in ("step", "custom")]
    legal = [*(name for name in named if not is_scales(name)), *sorted(of_rules)]
    for name in afresh:
        if name not in legal:
            text = f"made of fields of State ({', '.join(legal)})"
            raise invalid("afresh", text, name)
    return tuple(afresh)


def _check_step(source: Saved, expected: int | None) -> None:
    for scope, step in source.steps.items():
        if expected is not None and step != expected:
            where = f" of the State at '{scope}'" if scope else ""
            raise ValueError(
                f"`expect_step` is {shown(expected)}, and the saved state{where} has "
                f"taken {step} steps. Pass the checkpoint of that step, or leave "
                "`expect_step` out."
            )


def _check_scopes(source: Saved, target: Named) -> None:
    if set(source.fields) != set(target.fields):
        then, now = len(source.fields), len(target.fields)
        raise ValueError(
            f"The number of States of this library is {then} in what was saved (in an "
            f"optax.chain, for example) and {now} in tx. Give tx as many, or restore "
            "them one by one from the states in memory."
        )
