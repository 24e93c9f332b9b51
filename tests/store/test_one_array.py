"""Parameters that are one array, with no tree around it, and their absent buffers.

A tree has None at the places of leaves that lack a buffer. Of one array the whole field
of the State is None, as in the state of a transformation that keeps no such buffer.
"""

import jax
import jax.numpy as jnp
import pytest

import optadamw
from optadamw import checkpoint
from tests.support import trees

P = jnp.arange(1.0, 101.0)
CASES = {
    "too small for 8 bits": {"mu_dtype": optadamw.blockwise()},
    "kept in float32": {"nu_dtype": optadamw.blockwise(keep="*")},
    "accumulated": {"precision": "compact", "accumulate_steps": 2},
    "frozen": {"groups": {"*": {"freeze": True}}, "ema_decay": 0.9},
}


def made(case):
    return optadamw.adamw(0.1, **CASES[case])


@pytest.mark.filterwarnings("ignore:.*freezes all:UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_a_step_is_that_of_a_tree_with_one_leaf(case):
    tx = made(case)
    params = P.astype(jnp.bfloat16) if case == "accumulated" else P
    state, tree = tx.init(params), {"a": params}
    wanted = tx.init(tree)
    for _ in range(2):
        updates, after = jax.jit(tx.update)(params, state, params)
        trees.assert_same_bits({"a": updates}, tx.update(tree, wanted, tree)[0])
        params, state = tx.step(params, state, params)
        tree, wanted = tx.step(tree, wanted, tree)
        trees.assert_same_bits({"a": params}, tree)
        assert jax.tree.structure(after) == jax.tree.structure(state)
        for name in ("mu", "nu", "mu_scales", "ema"):
            other = getattr(wanted, name)
            trees.assert_same_bits({"a": getattr(state, name)}, other or {"a": None})
    trees.assert_same_bits(tx.flush(state, params)[0], params)


@pytest.mark.filterwarnings("ignore:.*freezes all:UserWarning")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("with_params", [True, False])
def test_its_state_is_saved_and_restored(case, with_params):
    tx = made(case)
    params = P.astype(jnp.bfloat16) if case == "accumulated" else P
    params, state = tx.step(params, tx.init(params), params)
    saved = checkpoint.to_portable(tx, state, params if with_params else None)
    found, _ = checkpoint.restore(tx, params, saved)
    trees.assert_same_bits(found, state)


def test_the_state_of_another_transformation_is_refused():
    plain = optadamw.adamw(0.1)
    state = plain.init(P)
    for options, lacking in (
        ({"amsgrad": "raw"}, "nu_max"),
        ({"ema_decay": 0.9}, "ema"),
        ({"mu_dtype": optadamw.blockwise(min_size=0)}, "mu_scales"),
    ):
        tx = optadamw.adamw(0.1, **options)
        for call in (tx.step, tx.update, jax.jit(tx.step)):
            with pytest.raises(ValueError, match=f"lacks the buffer `{lacking}`"):
                call(P, state, P)
        with pytest.raises(ValueError, match=f"lacks the buffer `{lacking}`"):
            checkpoint.to_portable(tx, state, P)
    without = optadamw.scale_by_learning_rate(0.1).init(P)
    with pytest.raises(ValueError, match="lacks the buffer `mu`"):
        checkpoint.to_portable(plain, without)


def test_without_a_tree_only_parameters_that_are_not_known_may_be_frozen():
    tx = optadamw.adamw(0.1, groups={"a": {"freeze": True}})
    params = {"a": P, "b": P}
    without = optadamw.scale_by_learning_rate(0.1).init(params)
    with pytest.raises(ValueError, match="lacks the buffer `mu`"):
        checkpoint.to_portable(tx, without, params)
