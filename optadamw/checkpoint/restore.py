"""Taking up a saved state, by name, in a transformation that may be another one."""

from collections.abc import Collection, Mapping
from typing import Any

import optax

from optadamw.base.errors import invalid, mistyped
from optadamw.base.types import PyTree
from optadamw.checkpoint.blocks import Form, scales_beside
from optadamw.checkpoint.decisions import decided
from optadamw.checkpoint.draft import Draft
from optadamw.checkpoint.matching import matched
from optadamw.checkpoint.names import Named, named_state
from optadamw.checkpoint.portable import Saved, meanings
from optadamw.checkpoint.rename import Renaming
from optadamw.checkpoint.report import Report
from optadamw.checkpoint.source import source_of
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
) -> tuple[PyTree, Report]:
    """The state of `tx` with all that was saved and still means the same.

    Every leaf of `tx.init(params)` is looked up by name in what was saved, whatever
    the chain was then: taken, or left fresh where it was not there. The report says
    what happened to each. What would be read as another thing than it is, is refused.

    Args:
      tx: the transformation that will go on: of this library, or an Optax wrapper.
      params: the parameters that it will move. Fresh buffers are made from them, and
        restored ones get their shardings.
      saved: what `load` or `to_portable` returned, `np.load` of such a file, a state
        of this library in memory, or what Orbax restores of one without a target.
      rename: from paths of parameters (or of subtrees) now to those that were saved,
        None for one that starts afresh; or a function of the path now.
      cast: whether a leaf may take another dtype of its kind.
      partial_window: what becomes of an open window of accumulation if it would be
        counted otherwise now: "refuse", "keep" and go on with it, or "drop" it.
      afresh: fields of State that start afresh whatever was saved, or names of the
        buffers in `State.custom`.
      expect_step: the step that must come out, if you know it.
      made_by: the transformation that made `saved`, where it cannot say so itself:
        a bare state, or what Orbax gave back.
      inner: the transformation of this library inside `tx`, where it cannot be found:
        that of `optax.inject_hyperparams`.

    Returns:
      The state and a `Report`, which prints.

    Raises:
      DamagedCheckpoint: something of `saved` is missing or altered.
      ValueError: another shape or dtype, a renamed parameter, a buffer with another
        meaning (AMSGrad's kind, the sign of the first moment), an open window, another
        step than expected, another format. The message names the leaf and what to do.
      TypeError: an argument of a kind that can never be right.

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
    check_choice(partial_window)
    source = source_of(saved, made_by)
    _check_step(source, expect_step)
    target = named_state(tx.init(params), "tx.init(params)")
    _check_scopes(source, target)
    fields = _check_fields(afresh, source, target)
    new = meanings(tx if inner is None else inner, source.steps)
    decisions = {
        scope: decided(scope, kept, source, new.get(scope), partial_window, fields)
        for scope, kept in target.fields.items()
    }
    draft = Draft(source, decisions, cast)
    places = {name: i for i, name in enumerate(target.names)}
    # Scales go with the codes that they belong to.
    names = [name for name in target.names if not is_scales(name.field)]
    sources = matched(
        names,
        [name for name in source.arrays if name not in source.scales],
        {scope: decision.fresh for scope, decision in decisions.items()},
        rename,
    )
    leaves, target = list(target.leaves), target._replace(leaves=())
    for name, taken in zip(names, sources, strict=True):
        # Each fresh leaf is given up before the next is taken up: two whole states
        # might not find room beside the parameters.
        at = places[name]
        scales = scales_beside(name)
        beside = None if scales is None else places.get(scales)
        like = Form(leaves[at], None if beside is None else leaves[beside])
        made = draft.leaf(name, like, taken)
        leaves[at] = made.array
        if beside is not None:
            leaves[beside] = made.scales
    return target.unflatten(leaves), draft.report(new)


def _check_fields(afresh: Any, source: Saved, target: Named) -> tuple[str, ...]:
    """The argument `afresh`, of names that a State can have here."""
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
                f"`expect_step` is {expected}, and the saved state{where} has taken "
                f"{step} steps. It is another checkpoint than you think."
            )


def _check_scopes(source: Saved, target: Named) -> None:
    if set(source.fields) != set(target.fields):
        then, now = len(source.fields), len(target.fields)
        raise ValueError(
            f"The number of States of this library is {then} in what was saved (in an "
            f"optax.chain, for example) and {now} in tx. Give tx as many, or restore "
            "them one by one from the states in memory."
        )
