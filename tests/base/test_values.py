"""Transformations with a mask print, compare, hash, pickle and compile as values."""

import copy
import pickle
import re
from typing import Any

import jax
import numpy as np
import optax
import pytest

import optadamw
from tests.base.masks import Pair, filled, is_matrix, is_of_the_norm, layer, matrices


def forms() -> dict[str, Any]:
    """Make every form of mask anew."""
    return {
        "none": None,
        "all": True,
        "no one": False,
        "glob": "*/kernel",
        "globs": ["*/kernel", "!layers/0/*"],
        "regex": re.compile("kernel$"),
        "only": optadamw.only("*/kernel"),
        "exclude": optadamw.exclude("*/bias"),
        "exclude-regex": optadamw.exclude(re.compile("bias$")),
        "predicate": is_matrix,
        "function": matrices,
        "tree": {"bias": False, "layers": [True, False], "norm": True},
        "named tuple": Pair(True, Pair(False, True)),
    }


@pytest.mark.parametrize("form", forms())
def test_transformations_with_a_mask_are_values(form):
    one, two = (optadamw.adamw(0.1, mask=forms()[form]) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert repr(one) == repr(two)
    for other in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one), copy.copy(one)):
        assert other == one
        assert hash(other) == hash(one)
        assert repr(other) == repr(one)
    if form != "none":
        assert repr(one).startswith("adamw(0.1, mask=")


def test_transformations_with_other_masks_differ():
    masks = list(forms().items())
    for name, mask in masks:
        for other_name, other in masks:
            both = optadamw.adamw(0.1, mask=mask), optadamw.adamw(0.1, mask=other)
            same_choice = {name, other_name} in ({"none", "all"}, {"glob", "only"})
            if name != other_name and not same_choice:
                assert both[0] != both[1], (name, other_name)
    assert optadamw.adamw(0.1, mask={"a": True}) != optadamw.adamw(
        0.1, mask={"b": True}
    )
    assert optadamw.adamw(0.1, mask=is_matrix) != optadamw.adamw(
        0.1, mask=is_of_the_norm
    )


@pytest.mark.parametrize(
    ("mask", "shown"),
    [
        ("*/kernel", "'*/kernel'"),
        (["!*/bias", "!*/scale"], "['!*/bias', '!*/scale']"),
        (False, "False"),
        (re.compile("kernel$"), "re.compile('kernel$')"),
        ({"w": True, "b": False}, "{'w': True, 'b': False}"),
    ],
)
def test_a_mask_prints_as_it_was_written(mask, shown):
    assert repr(optadamw.adamw(0.1, mask=mask)) == f"adamw(0.1, mask={shown})"


def test_a_changed_container_does_not_change_the_transformation():
    patterns, tree = ["*/kernel"], {"bias": True, "embedding": False}
    tree |= {"layers": False, "norm": False}
    by_pattern, by_tree = (optadamw.adamw(0.1, mask=m) for m in (patterns, tree))
    code = hash(by_pattern), hash(by_tree)
    patterns.append("*/bias")
    assert hash(by_pattern) == code[0]
    assert by_pattern == optadamw.adamw(0.1, mask=["*/kernel"])


def test_a_changed_tree_does_not_change_the_transformation():
    tree = {"bias": True, "norm": False}
    tx = optadamw.adamw(0.1, mask=tree)
    code = hash(tx)
    tree["norm"] = True
    assert hash(tx) == code
    assert tx == optadamw.adamw(0.1, mask={"bias": True, "norm": False})


@pytest.mark.parametrize("form", ["glob", "regex", "predicate", "tree"])
def test_equal_masks_share_one_compilation(form):
    traces = []

    def rate(step: Any) -> Any:
        traces.append(step)
        return 0.1

    model = {"bias": np.ones(2), "layers": [layer(), layer()], "norm": np.ones(2)}
    params = filled(1.0, model)
    steps = [jax.jit(optadamw.adamw(rate, mask=forms()[form]).step) for _ in range(3)]
    state = optadamw.adamw(rate).init(params)
    for step in steps:
        step(params, state, params)
    assert len(traces) == 1


@pytest.mark.parametrize("form", forms())
def test_masks_survive_inject_hyperparams(form):
    mask = forms()[form]
    if form in ("tree", "named tuple"):
        mask = {"kernel": True, "layers": [True, False]}
    model = {"kernel": np.ones((2, 2)), "layers": [layer(), layer()]}
    params = filled(1.0, model)
    # Optax takes any callable for a schedule unless it is told otherwise.
    static = ("mask",) if callable(mask) else ()
    make = optax.inject_hyperparams(optadamw.adamw, static_args=static)
    tx = make(learning_rate=0.1, mask=mask)
    plain = optadamw.adamw(0.1, mask=mask)
    ours, _ = tx.update(params, tx.init(params), params)
    expected, _ = plain.update(params, plain.init(params), params)
    for one, two in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)
