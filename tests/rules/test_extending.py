"""docs/guides/extending.md: what it shows runs here, and does what Optax does."""

import ast
import importlib
import inspect
import pickle
import re
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import custom
from tests.support import trees
from tests.support.lookahead import lookahead

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guides" / "extending.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)


def test_lookahead_on_the_page_is_the_file_that_is_tested():
    source = (ROOT / "tests" / "support" / "lookahead.py").read_text()
    assert source in BLOCKS
    assert len(source.splitlines()) < 60


def _imports(source: str) -> set[str]:
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ImportFrom)]
    modules = {n.module for n in nodes}
    modules |= {
        alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    return {m for m in modules if m.split(".")[0] == "optadamw"}


def test_authors_import_one_face():
    used = set().union(*map(_imports, BLOCKS))
    assert used == {"optadamw", "optadamw.custom"}
    own = {
        _imports((ROOT / "tests" / "support" / f"{n}.py").read_text()).pop()
        for n in RULES
    }
    assert own == {"optadamw.custom"}


RULES = ("lookahead", "momentum")


def test_the_face_hands_on_and_defines_nothing():
    tree = ast.parse(Path(inspect.getfile(custom)).read_text())
    docstring, *imports = tree.body
    assert isinstance(docstring, ast.Expr)
    for node in imports:
        assert isinstance(node, ast.ImportFrom)
        (alias,) = node.names
        assert alias.asname == alias.name
        found = getattr(importlib.import_module(node.module), alias.name)
        assert getattr(custom, alias.name) is found


def test_the_face_has_every_type_that_an_author_meets():
    """In the signatures of what a rule overrides, and in the fields of what it gets."""
    rule = {name: vars(custom.Rule)[name] for name in OVERRIDDEN}
    hints = [typing.get_type_hints(getattr(f, "fget", f)) for f in rule.values()]
    hints += [typing.get_type_hints(t) for t in (custom.Leaf, custom.Overwrite)]
    names = re.findall(r"optadamw\.[\w.]+\.(\w+)", repr(hints))
    assert names
    assert {n for n in names if not hasattr(custom, n)} <= {"Patterns", *SELECTORS}


OVERRIDDEN = (
    *("slots", "selector", "latest", "placed", "scalars", "norm_scalars"),
    *("norm_after", "report", "apply", "after_commit"),
)
SELECTORS = ("Predicate", "OfTree", "Everything", "TreeOfBools")
"""The parts of `Selector`, which is handed on whole."""


# --- Lookahead = optax.lookahead -----------------------------------------------------

STEPS = 25


def _adamw_like(*last):
    return optadamw.chain(
        optadamw.scale_by_adam(),
        optadamw.add_decoupled_weight_decay(0.1),
        optadamw.scale_by_learning_rate(0.05),
        *last,
    )


CHAINS = {
    "adamw": (_adamw_like, lambda: optax.adamw(0.05, weight_decay=0.1)),
    "clipped": (
        lambda *last: optadamw.chain(
            optadamw.clip_by_global_norm(1.0), _adamw_like(*last)
        ),
        lambda: optax.chain(
            optax.clip_by_global_norm(1.0), optax.adamw(0.05, weight_decay=0.1)
        ),
    ),
    "sgd": (
        lambda *last: optadamw.chain(optadamw.scale_by_learning_rate(0.1), *last),
        lambda: optax.sgd(0.1),
    ),
}


def _gradients(i, params):
    return jax.tree.map(lambda p: jnp.cos(3 * p + i), params)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("period", [1, 2, 5, 6])
@pytest.mark.parametrize("size", [0.3, 0.5, 1.0])
def test_lookahead_is_that_of_optax(chain, period, size):
    with jax.enable_x64(True):
        kinds = {"w": (jnp.float64, (3, 4)), "b": (jnp.float64, (5,))}
        start = trees.normal(kinds, seed=0)
        ours, theirs = CHAINS[chain]
        tx, peer = (
            ours(lookahead(period, size)),
            optax.lookahead(theirs(), period, size),
        )
        params, state = start, tx.init(start)
        pair = optax.LookaheadParams.init_synced(start)
        peer_state = peer.init(pair)
        step, update = jax.jit(tx.step), jax.jit(peer.update)
        for i in range(STEPS):
            params, state = step(_gradients(i, params), state, params)
            updates, peer_state = update(_gradients(i, pair.fast), peer_state, pair)
            pair = optax.apply_updates(pair, updates)
            for mine, other in ((params, pair.fast), (state.custom["slow"], pair.slow)):
                for name in start:
                    np.testing.assert_allclose(mine[name], other[name], atol=1e-13)


def test_float32_follows_optax_as_far_as_adamw_does():
    start = trees.normal(trees.FLOATS, seed=0)
    tx = _adamw_like(lookahead(5, 0.5))
    peer = optax.lookahead(optax.adamw(0.05, weight_decay=0.1), 5, 0.5)
    params, state = start, tx.init(start)
    pair = optax.LookaheadParams.init_synced(start)
    peer_state = peer.init(pair)
    for i in range(STEPS):
        params, state = tx.step(_gradients(i, params), state, params)
        updates, peer_state = peer.update(_gradients(i, pair.fast), peer_state, pair)
        pair = optax.apply_updates(pair, updates)
    for name in start:
        np.testing.assert_allclose(params[name], pair.fast[name], atol=1e-5)
        np.testing.assert_allclose(
            state.custom["slow"][name], pair.slow[name], atol=1e-5
        )


def test_between_syncs_the_slow_weights_keep_their_bits():
    tx = _adamw_like(lookahead(3, 0.5))
    params = trees.normal(trees.FLOATS, seed=0)
    state = tx.init(params)
    moved = []
    for i in range(6):
        before = state.custom
        params, state = tx.step(_gradients(i, params), state, params)
        is_same = jax.tree.map(np.array_equal, state.custom, before)
        moved.append(not all(jax.tree.leaves(is_same)))
        if moved[-1]:
            trees.assert_same_bits(state.custom["slow"], params)
    assert moved == [False, False, True] * 2


def test_a_schedule_of_periods_and_sizes():
    period = optax.piecewise_constant_schedule(2, {4: 2.0})  # 2, from step 4 on 4
    tx = optadamw.chain(
        optadamw.scale_by_learning_rate(0.1), lookahead(period, lambda step: 0.5)
    )
    params = {"w": jnp.ones(3)}
    state, synced = tx.init(params), []
    for i in range(12):
        params, state = jax.jit(tx.step)({"w": jnp.ones(3)}, state, params)
        if np.array_equal(params["w"], state.custom["slow"]["w"]):
            synced.append(i + 1)
    assert synced == [2, 4, 8, 12]


def test_it_is_a_value():
    tx = _adamw_like(lookahead(3, 0.5))
    assert tx == _adamw_like(lookahead(3, 0.5)) != _adamw_like(lookahead(4, 0.5))
    assert repr(lookahead(3, 0.5)) == "lookahead(3)"
    again = pickle.loads(pickle.dumps(tx))
    assert again == tx and hash(again) == hash(tx) and repr(again) == repr(tx)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "`sync_period` must be a whole number of steps >= 1; got 0"),
        ((2, 1.5), r"`slow_step_size` must be in \[0, 1\]; got 1.5"),
        ((2, 0.5, "int8"), "`dtype` must be a floating dtype"),
        ((2, 0.5, optadamw.blockwise), "Call it: blockwise()"),
    ],
)
def test_what_a_user_gives_is_checked(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        lookahead(*arguments)
