"""Groups with a sign or an AMSGrad of their own: the file lists their parameters."""

from dataclasses import dataclass, replace
from types import FunctionType
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
import pytest

import optadamw
from optadamw import checkpoint
from optadamw.checkpoint.form import KINDS as KINDS_KEY
from optadamw.checkpoint.record import without_addresses
from optadamw.custom import Rule, Slot, Stage, atom, storage
from tests.checkpoint.runs import run
from tests.support import trees

KINDS = {"maximize": "mu", "amsgrad": "nu_max"}
PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}


def adamw(option, choice, **more):
    return optadamw.adamw(1e-2, groups={choice: {option: True}}, **more)


def vectors(path, x):
    return x.ndim == 1


def another(function):
    """The function as another process makes it: of one name, at another address."""
    return FunctionType(function.__code__, function.__globals__, function.__name__)


@pytest.mark.parametrize("option", KINDS)
@pytest.mark.parametrize("choice", [vectors, lambda path, x: x.ndim == 1])
def test_a_function_of_another_process_chooses_equal_parameters(option, choice):
    made, again = adamw(option, choice), adamw(option, another(choice))
    assert made != again
    state = made.init(PARAMS)
    saved = checkpoint.to_portable(made, state, PARAMS)
    restored, report = checkpoint.restore(again, PARAMS, saved)
    trees.assert_same_bits(restored, state)
    assert report.is_whole


@pytest.mark.parametrize("option", KINDS)
@pytest.mark.parametrize("around", [False, True])
def test_a_function_that_was_changed_chooses_others(option, around):
    """Its name is the old one, and the moments of others would be taken."""

    def present(path, x):
        return x.ndim == 2

    other = FunctionType(present.__code__, globals(), "vectors")
    made, now = adamw(option, vectors), adamw(option, other)
    if around:
        made, now = (optax.chain(optax.identity(), tx) for tx in (made, now))
    saved = checkpoint.to_portable(made, made.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match=f"Leaf '{KINDS[option]}/b': it was saved as"):
        checkpoint.restore(now, PARAMS, saved)
    _, report = checkpoint.restore(now, PARAMS, saved, afresh=(KINDS[option],))
    assert f"{KINDS[option]}/b" in report.fresh


@pytest.mark.parametrize("option", KINDS)
def test_without_parameters_two_lambdas_are_two_groups(option):
    made, now = (adamw(option, lambda path, x, n=n: x.ndim == n) for n in (1, 2))
    saved = checkpoint.to_portable(made, made.init(PARAMS))
    with pytest.raises(ValueError, match="A lambda or an inner function has no name"):
        checkpoint.restore(now, PARAMS, saved)


def regrouped(option):
    """Two transformations of equal kinds and other groups, and a state of the first."""
    own = {"bias": {option: True}}
    old = optadamw.adamw(0.1, groups=own)
    new = optadamw.adamw(0.1, groups={"kernel": {"learning_rate": 0.2}, **own})
    return old, new, *run(old, 2)


@pytest.mark.parametrize("option", KINDS)
def test_other_groups_of_equal_kinds(option):
    old, new, params, state = regrouped(option)
    saved = checkpoint.to_portable(old, state, params)
    restored, report = checkpoint.restore(new, params, saved)
    trees.assert_same_bits(restored, state)
    assert not report.fresh
    assert not report.left_over


@pytest.mark.parametrize("option", KINDS)
def test_other_groups_in_a_file_without_parameters(option):
    """The way that the error names loses nothing: a State knows no groups."""
    old, new, params, state = regrouped(option)
    saved = checkpoint.to_portable(old, state)
    with pytest.raises(ValueError, match="restore with the groups of the file"):
        checkpoint.restore(new, params, saved)
    restored, _ = checkpoint.restore(old, params, saved)
    grads = jax.tree.map(jnp.ones_like, params)
    made = [jax.jit(new.step)(grads, one, params) for one in (restored, state)]
    trees.assert_same_bits(*made)


@pytest.mark.parametrize("option", KINDS)
def test_one_kind_for_all_and_groups_are_compared_by_parameter(option):
    whole, part = optadamw.adamw(1e-2, **{option: True}), adamw(option, "b")
    every = adamw(option, "*")
    for old, new in [(whole, every), (every, whole)]:
        saved = checkpoint.to_portable(old, old.init(PARAMS), PARAMS)
        _, report = checkpoint.restore(new, PARAMS, saved)
        assert report.is_whole or not report.fresh
    for old, new in [(whole, part), (part, whole)]:
        saved = checkpoint.to_portable(old, old.init(PARAMS), PARAMS)
        with pytest.raises(ValueError, match=f"Leaf '{KINDS[option]}/w': it was saved"):
            checkpoint.restore(new, PARAMS, saved)


@pytest.mark.parametrize("option", KINDS)
def test_renamed_added_removed_and_frozen_parameters(option):
    made = optadamw.adamw(1e-2, groups={"b": {option: True}, "head": {"freeze": True}})
    params = {**PARAMS, "head": jnp.ones(2)}
    saved = checkpoint.to_portable(made, made.init(params), params)
    renamed = {"v": PARAMS["b"], "w": PARAMS["w"], "new": jnp.ones(4)}
    now, names = adamw(option, "v"), {"v": "b", "new": None}
    _, report = checkpoint.restore(now, renamed, saved, rename=names)
    assert ("mu/v", "mu/b") in report.renamed
    with pytest.raises(ValueError, match=f"Leaf '{KINDS[option]}/v': it was saved"):
        checkpoint.restore(adamw(option, "w"), renamed, saved, rename=names)


@pytest.mark.parametrize("option", KINDS)
def test_a_part_of_the_parameters_in_masked(option):
    """Its groups are not those of all parameters, so the file has no list."""
    own = adamw(option, lambda tree: jax.tree.map(lambda x: x.ndim == 1, tree))
    tx = optax.masked(own, {"w": True, "b": True, "other": False})
    params = {"other": jnp.ones(2), **PARAMS}
    saved = checkpoint.opened(checkpoint.to_portable(tx, tx.init(params), params))
    assert KINDS_KEY not in saved.meaning[""]
    _, report = checkpoint.restore(tx, params, saved)
    assert report.is_whole


def test_a_file_of_before_has_no_lists():
    tx = adamw("maximize", "b")
    saved = checkpoint.opened(checkpoint.to_portable(tx, tx.init(PARAMS), PARAMS))
    meaning = {k: v for k, v in saved.meaning[""].items() if k != KINDS_KEY}
    before = replace(saved, meaning={"": meaning})
    _, report = checkpoint.restore(tx, PARAMS, before)
    assert report.is_whole
    with pytest.raises(ValueError, match="`mu` was saved as"):
        checkpoint.restore(adamw("maximize", "w"), PARAMS, before)


def test_addresses_in_the_names_of_older_files_do_not_count():
    old = {"mu": "groups[<function f at 0x7fAB>]: a", "rules": ["layer at 0x1"]}
    new = {"mu": "groups[<function f>]: a", "rules": ["layer at 0x1"]}
    assert without_addresses({"": old, "window": {"every": 2}}) == {
        "": new,
        "window": {"every": 2},
    }


FROZEN = [("head", {"freeze": True})]
HEADED = {**PARAMS, "head": jnp.ones(2)}


@pytest.mark.parametrize("frozen", [[], FROZEN])
@pytest.mark.parametrize(
    "given",
    [
        lambda params: {"params": params, "statistics": jnp.ones(2)},
        lambda params: {"b": params["b"]},
        lambda params: {"w": params["w"]},
        lambda params: {"w": params["w"], "b": params["b"]},
        lambda params: {**params, "more": jnp.ones(2)},
    ],
    ids=["beside others", "a part", "without a group", "trained alone", "one more"],
)
def test_other_trees_of_parameters_have_no_list(given, frozen):
    """They are saved, and the texts of the groups are compared."""
    tx, other = (
        optadamw.adamw(1e-2, groups=[*frozen, (choice, {"maximize": True})])
        for choice in ("b", "w")
    )
    portable = checkpoint.to_portable(tx, tx.init(HEADED), given(HEADED))
    assert KINDS_KEY not in checkpoint.opened(portable).meaning[""]
    _, report = checkpoint.restore(tx, HEADED, portable)
    assert report.is_whole
    with pytest.raises(ValueError, match="`mu` was saved as"):
        checkpoint.restore(other, HEADED, portable)


@pytest.mark.parametrize("option", KINDS)
def test_a_chain_with_a_frozen_group_has_a_list(option):
    made, again, other = (
        optax.chain(
            optax.clip(1.0),
            optadamw.adamw(1e-2, groups=[*FROZEN, (choice, {option: True})]),
        )
        for choice in (
            lambda path, x: path == "b",
            lambda path, x: x.shape == (3,),
            lambda path, x: path == "w",
        )
    )
    saved = checkpoint.to_portable(made, made.init(HEADED), HEADED)
    _, report = checkpoint.restore(again, HEADED, saved)
    assert report.is_whole
    with pytest.raises(ValueError, match=f"Leaf '{KINDS[option]}/b': it was saved"):
        checkpoint.restore(other, HEADED, saved)


@dataclass(frozen=True)
class Keeper(Rule):
    stage: ClassVar[Stage] = Stage.GRADIENT

    @property
    def slots(self):
        return (Slot("kinds", storage("dtype", None)),)

    def apply(self, leaf, scalars):
        return leaf.keeping(kinds=leaf.buffers["kinds"] + 1)


def test_a_buffer_of_a_user_may_be_called_kinds():
    tx = optadamw.chain(atom(Keeper()), optadamw.scale_by_learning_rate(0.1))
    saved = checkpoint.to_portable(tx, tx.init(PARAMS), PARAMS)
    _, report = checkpoint.restore(tx, PARAMS, saved)
    assert report.is_whole
