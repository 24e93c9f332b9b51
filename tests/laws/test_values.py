"""Laws of values: transformations print, compare, hash, pickle and copy as values."""

import copy
import pickle
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from tests.support import trees
from tests.support.compilations import Compilations
from tests.support.hyperparameters import cooling
from tests.support.lookahead import lookahead
from tests.support.momentum import scale_by_momentum
from tests.support.over import over
from tests.support.transformations import ROWS, is_kernel, with_arrays

each_row = over(ROWS)
PLAIN = [row for row in ROWS if row.is_plain]


@each_row
def test_made_equal_is_equal(row):
    one, other = row.make(), row.make()
    assert one == other and not one != other
    assert hash(one) == hash(other)
    assert repr(one) == repr(other)
    assert one.step == other.step and hash(one.step) == hash(other.step)
    assert one.init == other.init and one.update == other.update


def test_rows_differ():
    made = [row.make() for row in ROWS]
    assert len(set(made)) == len({repr(tx) for tx in made}) == len(ROWS)
    for i, tx in enumerate(made):
        assert [i] == [j for j, other in enumerate(made) if other == tx]


@each_row
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_gives_an_equal_one(row, protocol):
    tx = row.make()
    loaded = pickle.loads(pickle.dumps(tx, protocol))
    assert type(loaded) is type(tx) is optadamw.Transformation
    assert loaded == tx and hash(loaded) == hash(tx) and repr(loaded) == repr(tx)


@each_row
def test_copies_are_equal(row):
    tx = row.make()
    for other in (copy.copy(tx), copy.deepcopy(tx)):
        assert other == tx and hash(other) == hash(tx) and repr(other) == repr(tx)


@each_row
def test_a_pickled_state_is_the_state(row):
    state = row.make().init(trees.normal(trees.MIXED, seed=0))
    for other in (pickle.loads(pickle.dumps(state)), copy.deepcopy(state)):
        assert isinstance(other, optadamw.State)
        trees.assert_same_bits(other, state)


@over(PLAIN)
def test_repr_is_the_call(row):
    tx = row.make()
    own = {"lookahead": lookahead, "scale_by_momentum": scale_by_momentum}
    again = eval(repr(tx), {"__builtins__": {}}, vars(optadamw) | own)
    assert again == tx
    assert repr(again) == repr(tx)


@pytest.mark.parametrize(
    ("tx", "expected"),
    [
        (optadamw.adamw(1e-3), "adamw(0.001)"),
        (optadamw.adamw(1e-3, 0.9), "adamw(0.001)"),
        (optadamw.adamw(learning_rate=1e-3, b2=0.95), "adamw(0.001, b2=0.95)"),
        (optadamw.adamw(1, mu_dtype=jnp.bfloat16), "adamw(1, mu_dtype='bfloat16')"),
        (optadamw.adamw(0.1, mask=["!*/bias"]), "adamw(0.1, mask=['!*/bias'])"),
        (optadamw.chain(), "chain()"),
        (
            optadamw.chain(optadamw.maximize(), update_dtype="float32"),
            "chain(maximize(), update_dtype='float32')",
        ),
    ],
    ids=repr,
)
def test_reprs(tx, expected):
    assert repr(tx) == expected
    assert eval(expected, {}, vars(optadamw)) == tx


def test_selections_compare_by_their_patterns():
    listed = optadamw.adamw(0.1, mask=["!*/bias", "!scale"])
    chosen = optadamw.adamw(0.1, mask=optadamw.exclude("*/bias", "scale"))
    assert chosen == listed and hash(chosen) == hash(listed)
    for tx in (chosen, optadamw.adamw(0.1, mask=optadamw.only("*/kernel", "scale"))):
        assert eval(repr(tx), {}, vars(optadamw)) == tx


def test_forms_of_one_number_are_one_transformation():
    forms = (1, 1.0, np.float32(1), np.float64(1), np.array(1.0))
    made = [optadamw.adamw(form) for form in forms]
    assert len(set(made)) == 1


def test_arrays_compare_by_number_and_dtype():
    assert with_arrays() == with_arrays()
    half = optadamw.adamw(jnp.float32(0.5))
    assert half == optadamw.adamw(jnp.float32(0.5))
    assert half != optadamw.adamw(jnp.float32(0.25))
    assert half != optadamw.adamw(0.5)


def test_schedules_and_predicates_compare_by_identity():
    assert optadamw.adamw(cooling) == optadamw.adamw(cooling)
    twin = types.FunctionType(cooling.__code__, cooling.__globals__)
    assert optadamw.adamw(cooling) != optadamw.adamw(twin)
    assert optadamw.adamw(0.1, mask=is_kernel) == optadamw.adamw(0.1, mask=is_kernel)


def test_masks_compare_by_what_they_say():
    tree = {"kernel": True, "bias": False}
    same = {"bias": np.bool_(False), "kernel": True}
    assert optadamw.adamw(0.1, mask=tree) == optadamw.adamw(0.1, mask=same)
    assert optadamw.adamw(0.1, mask=tree) != optadamw.adamw(0.1, mask={"kernel": True})
    one, listed = (optadamw.adamw(0.1, mask=m) for m in ("a", ["a"]))
    assert one == listed and hash(one) == hash(listed)


def test_arguments_that_the_caller_changes_afterwards_change_nothing():
    rate, mask, spikes = np.array(0.1), {"w": True, "b": False}, {"sigmas": 4.0}
    groups = {"b": {"weight_decay": 0.0}}
    given = {"mask": mask, "skip_spikes": spikes, "groups": groups}
    tx = optadamw.adamw(rate, **given)
    before, twin = repr(tx), copy.deepcopy(tx)
    rate[...], mask["w"], spikes["sigmas"] = 1.0, False, 1.0
    groups["b"]["weight_decay"] = 0.5
    assert repr(tx) == before and tx == twin
    assert optadamw.adamw(rate, **given) != tx
    parts = [["w"], ["b"]]
    masked = optadamw.adamw(0.1, mask=parts[0])
    parts[0].append("b")
    assert repr(masked) == "adamw(0.1, mask=['w'])"


def test_another_update_is_not_passed_by():
    tx = optadamw.adamw(0.1)

    def halved(updates, state, params=None, **extra):
        updates, state = tx.update(updates, state, params, **extra)
        return jax.tree.map(lambda u: u / 2, updates), state

    changed = tx._replace(update=halved)
    assert isinstance(changed, optax.GradientTransformationExtraArgs)
    assert not hasattr(changed, "step") and changed.init == tx.init
    params = {"w": jnp.ones(3)}
    state = tx.init(params)
    whole, _ = optadamw.step(tx, params, state, params)
    half, _ = optadamw.step(changed, params, state, params)
    assert jnp.allclose(1 - half["w"], (1 - whole["w"]) / 2)


@each_row
def test_it_is_what_optax_takes(row):
    tx = row.make()
    assert isinstance(tx, optax.GradientTransformationExtraArgs)
    init, update = tx
    assert init == tx.init and update == tx.update
    assert optax.with_extra_args_support(tx) is tx


def test_equal_instances_share_a_compilation_as_jitted_update_and_init():
    params = trees.normal(trees.FLOATS, seed=0)
    counts = []
    kept = []  # JAX forgets a program when the last function that is equal is gone
    for _ in range(2):
        tx = optadamw.adamw(0.1, b1=0.7, ema_decay=0.9)
        kept.append(tx)
        with Compilations() as compilations:
            state = jax.jit(tx.init)(params)
            jax.jit(tx.update)(params, state, params)
        counts.append(compilations.count)
    assert counts == [2, 0]
