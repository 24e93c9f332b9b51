"""Trees of bools and their prefixes choose parameters, or are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from tests.base.masks import (
    ALL,
    DECAY,
    FIRST,
    KERNELS,
    LEARNING_RATE,
    MODEL,
    Pair,
    decayed,
    filled,
    matrices,
    names,
)

TREES = [
    (None, ALL),
    (True, ALL),
    (False, set()),
    (np.True_, ALL),
    (np.bool_(False), set()),
    (matrices(filled(1.0, MODEL)), KERNELS | {"embedding/table"}),
    (
        jax.tree.map(np.array, matrices(filled(1.0, MODEL))),
        KERNELS | {"embedding/table"},
    ),
    (
        {"bias": True, "embedding": False, "layers": False, "norm": False},
        {"bias"},
    ),
    (
        {"bias": False, "embedding": True, "layers": [True, False], "norm": False},
        FIRST | {"embedding/table"},
    ),
    (
        {
            "bias": False,
            "embedding": {"table": False},
            "layers": [{"kernel": True, "bias": False}, True],
            "norm": {"scale": jnp.array(False), "bias": np.True_},
        },
        {"layers/0/kernel", "layers/1/kernel", "layers/1/bias", "norm/bias"},
    ),
]


@pytest.mark.parametrize(("mask", "expected"), TREES)
def test_trees_and_prefixes_choose(mask, expected):
    assert decayed(mask, MODEL) == expected


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ({"bias": True}, "says nothing of 'embedding/table'"),
        (
            {"bias": True, "embedding": True, "layers": [True], "norm": True},
            "says nothing of 'layers/1/bias'",
        ),
        (
            {"bias": None, "embedding": True, "layers": True, "norm": True},
            "says nothing of 'bias'",
        ),
        (
            {"bias": True, "embedding": True, "layers": True, "norms": True},
            "(says nothing of 'norm/bias'|'norms' is no parameter)",
        ),
        (
            {"bias": 1 > 0, "embedding": True, "layers": True, "norm": True, "x": True},
            "'x' is no parameter",
        ),
        (
            {"bias": True, "embedding": True, "layers": [True] * 3, "norm": True},
            "'layers/2' is no parameter",
        ),
        (
            {
                "bias": {"deep": True},
                "embedding": True,
                "layers": True,
                "norm": True,
            },
            "(says nothing of 'bias'|'bias/deep' is no parameter)",
        ),
        ([True, False], "says nothing of 'bias'"),
        ({}, "says nothing of 'bias'"),
        ([], "says nothing of 'bias'"),
    ],
    ids=repr,
)
def test_trees_of_another_structure_are_refused(mask, words):
    for form in (mask, lambda params: mask):
        tx = optadamw.adamw(0.1, mask=form)
        with pytest.raises(ValueError, match=f"`mask` has another structure.*{words}"):
            tx.init(filled(1.0, MODEL))


def test_the_root_may_be_a_leaf():
    assert decayed(True, np.ones(3)) == {""}
    assert decayed(False, np.ones(3)) == set()
    assert decayed(lambda path, array: path == "", np.ones(3)) == {""}
    assert decayed(lambda params: True, np.ones(3)) == {""}


@pytest.mark.parametrize("container", ["list", "tuple", "NamedTuple", "mixed", "None"])
def test_containers_have_paths(container):
    match container:
        case "list":
            tree, left, right = [np.ones(2), [np.ones(2)]], "0", "1/0"
        case "tuple":
            tree, left, right = (np.ones(2), (np.ones(2),)), "0", "1/0"
        case "NamedTuple":
            tree, left, right = (
                Pair(np.ones(2), Pair(np.ones(2), ())),
                "left",
                "right/left",
            )
        case "mixed":
            tree, left, right = {"a": [Pair(np.ones(2), (np.ones(2),))]}, "a/0/left", ""
            right = "a/0/right/0"
        case _:
            tree, left, right = (
                {"a": np.ones(2), "b": None, "c": [None, np.ones(2)]},
                "",
                "",
            )
            left, right = "a", "c/1"
    assert set(names(tree)) == {left, right}
    assert decayed(left, tree) == {left}
    assert decayed(f"!{left}", tree) == {right}
    assert decayed(jax.tree.map(lambda x: True, tree), tree) == {left, right}
    choice = dict.fromkeys(names(tree), False) | {right: True}
    bools = jax.tree.unflatten(jax.tree.structure(tree), list(choice.values()))
    assert decayed(bools, tree) == {right}


def test_a_slash_in_a_name_does_not_confuse_leaves():
    tree = {"a": {"b": np.ones(2)}, "a/b": np.ones(3)}
    params = filled(1.0, tree)
    zeros = filled(0.0, tree)
    mask = {"a": {"b": True}, "a/b": False}
    tx = optadamw.adamw(LEARNING_RATE, weight_decay=DECAY, mask=mask)
    moved, _ = tx.step(zeros, tx.init(params), params)
    assert bool(jnp.all(moved["a"]["b"] < 1.0))
    assert bool(jnp.all(moved["a/b"] == 1.0))
