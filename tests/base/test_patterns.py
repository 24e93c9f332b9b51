"""Patterns choose parameters by path, or are refused with the paths near them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from tests.base.masks import ALL, FIRST, KERNELS, MODEL, decayed, filled, layer

BIASES = {"bias", "layers/0/bias", "layers/1/bias", "norm/bias"}

PATTERNS = [
    ("*", ALL),
    ("*/kernel", KERNELS),
    ("*/bias", BIASES),
    ("bias", {"bias"}),
    ("norm/*", {"norm/scale", "norm/bias"}),
    ("layers/0/*", FIRST),
    ("layers/?/bias", {"layers/0/bias", "layers/1/bias"}),
    ("layers/[1-9]/*", {"layers/1/kernel", "layers/1/bias"}),
    ("layers/*", FIRST | {"layers/1/kernel", "layers/1/bias"}),
    ("embedding/table", {"embedding/table"}),
    (["*/kernel", "*/table"], KERNELS | {"embedding/table"}),
    (("*/kernel", "*/table"), KERNELS | {"embedding/table"}),
    (["!*/bias"], ALL - BIASES),
    ("!*/bias", ALL - BIASES),
    (["!*/bias", "!*/scale"], ALL - BIASES - {"norm/scale"}),
    (["layers/*", "!*/bias"], KERNELS),
    (["!*/bias", "layers/*"], KERNELS),
    (["!layers/0/*", "*/kernel", "*/scale"], {"layers/1/kernel", "norm/scale"}),
    (re.compile("kernel$"), KERNELS),
    (re.compile("^(embedding|norm)/"), {"embedding/table", "norm/scale", "norm/bias"}),
    (re.compile("SCALE", re.IGNORECASE), {"norm/scale"}),
    ([re.compile("kernel"), "*/scale"], KERNELS | {"norm/scale"}),
    ([re.compile("kernel"), "!layers/0/*"], {"layers/1/kernel"}),
    (optadamw.only("*/kernel", re.compile("table")), KERNELS | {"embedding/table"}),
    (optadamw.exclude("*/bias", "*/scale"), KERNELS | {"embedding/table"}),
    (optadamw.exclude(re.compile("bias|scale")), KERNELS | {"embedding/table"}),
]


@pytest.mark.parametrize(
    ("mask", "expected"), PATTERNS, ids=[repr(mask) for mask, _ in PATTERNS]
)
def test_patterns_choose_by_path(mask, expected):
    assert decayed(mask, MODEL) == expected


@pytest.mark.parametrize(
    ("mask", "missed", "near"),
    [
        ("*/kernal", "*/kernal", "layers/0/kernel"),
        ("layer/0/kernel", "layer/0/kernel", "layers/0/kernel"),
        ("*/BIAS", "*/BIAS", "bias"),
        ("norm", "norm", "norm/scale"),
        ("embedding/tables", "embedding/tables", "embedding/table"),
        (["*/kernel", "*/scales"], "*/scales", "norm/scale"),
        (["*/kernel", "!*/biases"], "!*/biases", "bias"),
        (re.compile("^kernel"), "^kernel", "layers/0/kernel"),
        ([re.compile("tables"), "*/bias"], "tables", "embedding/table"),
        (optadamw.only("*/scala"), "*/scala", "norm/scale"),
        (optadamw.exclude("*/scala"), "!*/scala", "norm/scale"),
        (optadamw.exclude(re.compile("scala$")), "scala$", "norm/scale"),
    ],
)
def test_a_pattern_without_a_match_is_refused_with_near_paths(mask, missed, near):
    tx = optadamw.adamw(0.1, mask=mask)
    params = filled(1.0, MODEL)
    pattern = rf"`mask`.*'{re.escape(missed)}' matches no.*'{near}'"
    with pytest.raises(ValueError, match=pattern):
        tx.init(params)
    state = optadamw.adamw(0.1).init(params)
    for call in (tx.step, tx.update, jax.jit(tx.step)):
        with pytest.raises(ValueError, match=pattern):
            call(params, state, params)


def test_near_paths_come_before_other_paths():
    many = {f"block{i}": layer() for i in range(20)} | {"zzz": {"gamma": np.ones(2)}}
    with pytest.raises(ValueError, match=r"near it: 'zzz/gamma'"):
        optadamw.adamw(0.1, mask="*/gama").init(filled(1.0, many))


def test_a_tree_without_leaves_matches_every_pattern():
    optadamw.adamw(0.1, mask="*/kernel").init({})


@pytest.mark.parametrize("name", ["layers[0]", "!bias"])
def test_a_sign_of_globs_in_a_path_is_explained(name):
    """The remedy of the message chooses the parameter."""
    params = {name: jnp.ones(2), "other": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"matches no parameter.*write") as error:
        optadamw.adamw(0.1, mask=name).init(params)
    written = re.search(r"write .*?('.*'|re\.compile\(.*\))\.$", str(error.value))[1]
    tx = optadamw.adamw(0.1, weight_decay=0.5, mask=eval(written))
    stepped, _ = tx.step(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert (stepped[name] < 1).all() and (stepped["other"] == 1).all()
    with pytest.raises(ValueError, match=r"near it: 'other'[^\]]*\.$"):
        optadamw.adamw(0.1, mask="othr").init({"other": jnp.ones(2)})
