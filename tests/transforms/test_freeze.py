"""Frozen parameters: they never change, and nothing is kept or counted for them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import checkpoint

PARAMS = {
    "vocab": {"table": jnp.linspace(-1.0, 1.0, 32).reshape(4, 8)},
    "head": {"kernel": jnp.ones((8, 3)), "bias": jnp.zeros(3)},
}
HEAD = {"head": PARAMS["head"]}
GRADS = jax.tree.map(
    lambda p: jnp.cos(jnp.arange(p.size) + 1.0).reshape(p.shape), PARAMS
)
FROZEN = {"vocab/*": {"freeze": True}}
EIGHT = optadamw.blockwise(min_size=0)

OPTIONS = {
    "plain": {},
    "variants": {"amsgrad": True, "caution": True, "nesterov": True},
    "clips": {"clip_global_norm": 0.1, "clip_norm": 0.2, "stats": "norms"},
    "guard": {"skip_nonfinite": True},
    "spikes": {"skip_spikes": True, "stats": True},
    "average": {"ema_decay": 0.9, "ema_overwrite_every": 2},
    "accumulation": {"accumulate_steps": 2, "skip_nonfinite": True},
    "eight bits": {"mu_dtype": EIGHT, "nu_dtype": EIGHT, "accumulate_steps": 2},
    "loss scale": {"loss_scale": optadamw.DynamicLossScale(2.0)},
}


def run(tx, params, grads, steps=3):
    state = tx.init(params)
    for _ in range(steps):
        params, state = jax.jit(tx.step)(grads, state, params)
    return params, state


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_others_train_as_if_the_frozen_were_not_there(options):
    frozen, state = run(optadamw.adamw(0.1, groups=FROZEN, **options), PARAMS, GRADS)
    alone, own = run(optadamw.adamw(0.1, **options), HEAD, {"head": GRADS["head"]})
    jax.tree.map(np.testing.assert_array_equal, frozen["head"], alone["head"])
    np.testing.assert_array_equal(frozen["vocab"]["table"], PARAMS["vocab"]["table"])
    # Equal arrays in the same order: no buffer, norm or counter tells of it.
    jax.tree.map(
        np.testing.assert_array_equal, jax.tree.leaves(state), jax.tree.leaves(own)
    )


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_what_its_gradient_is_has_no_effect(options):
    tx = optadamw.adamw(0.1, groups=FROZEN, **options)
    told = run(tx, PARAMS, GRADS)
    for gradient in (jnp.full((4, 8), jnp.nan), None):
        found = run(tx, PARAMS, GRADS | {"vocab": {"table": gradient}})
        jax.tree.map(np.testing.assert_array_equal, found, told)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_an_update_of_a_frozen_parameter_changes_no_bit(options):
    tx = optadamw.adamw(0.1, groups=FROZEN, **options)
    table = jnp.array([[-0.0, 0.0, 1.0]])
    params = PARAMS | {"vocab": {"table": table}}
    grads = GRADS | {"vocab": {"table": jnp.ones((1, 3))}}
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    applied = optax.apply_updates(params, updates)["vocab"]["table"]
    assert np.asarray(applied).tobytes() == np.asarray(table).tobytes()


def test_a_flush_leaves_it():
    tx = optadamw.adamw(0.1, groups=FROZEN, accumulate_steps=4)
    for like in (None, GRADS):
        _, state = run(tx, PARAMS, GRADS, steps=2)
        params, state = tx.flush(state, PARAMS, like)
        assert int(state.step) == 1
        np.testing.assert_array_equal(
            params["vocab"]["table"], PARAMS["vocab"]["table"]
        )
        assert not np.array_equal(params["head"]["bias"], PARAMS["head"]["bias"])


def test_its_average_is_the_parameter():
    tx = optadamw.adamw(0.1, groups=FROZEN, ema_decay=0.5)
    params, state = run(tx, PARAMS, GRADS)
    table = params["vocab"]["table"]
    assert optadamw.ema_of(state)["vocab"]["table"] is None
    average = optadamw.ema_of(state, like=params)
    assert average["vocab"]["table"] is table
    final = optadamw.finalize(state, params)
    jax.tree.map(np.testing.assert_array_equal, final, average)

    averaged, swapped = optadamw.swap_ema(state, params)
    jax.tree.map(np.testing.assert_array_equal, averaged, average)
    back, again = optadamw.swap_ema(swapped, averaged)
    jax.tree.map(np.testing.assert_array_equal, (back, again), (params, state))
    assert jax.tree.structure(again) == jax.tree.structure(state)


def test_reports_say_so():
    tx = optadamw.adamw(0.1, groups=FROZEN)
    plan = optadamw.memory_plan(tx, PARAMS, temporaries=False)
    trained = optadamw.memory_plan(optadamw.adamw(0.1), HEAD, temporaries=False)
    for name in ("gradients", "mu", "nu"):
        assert plan.shares[name] == trained.shares[name]
    told = optadamw.describe(tx, PARAMS)
    assert "groups['vocab/*'], 1 parameter: frozen" in told
    (row,) = [line for line in told.splitlines() if line.startswith("vocab/table")]
    assert row.split()[-3:] == ["frozen", "none", "0"]


def test_frozen_then_trained_and_back_by_name():
    frozen, whole = optadamw.adamw(0.1, groups=FROZEN), optadamw.adamw(0.1)
    params, state = run(frozen, PARAMS, GRADS)
    saved = checkpoint.to_portable(frozen, state)
    assert "mu/vocab/table" not in saved

    same, report = checkpoint.restore(frozen, params, saved)
    jax.tree.map(np.testing.assert_array_equal, same, state)
    assert not report.fresh and not report.left_over

    thawed, report = checkpoint.restore(whole, params, saved)
    assert report.fresh == ("mu/vocab/table", "nu/vocab/table")
    assert any("frozen" in line for line in report.changed)
    np.testing.assert_array_equal(thawed.mu["head"]["bias"], state.mu["head"]["bias"])
    params, thawed = whole.step(GRADS, thawed, params)

    refrozen, report = checkpoint.restore(
        frozen, params, checkpoint.to_portable(whole, thawed)
    )
    assert report.left_over == ("mu/vocab/table", "nu/vocab/table")
    frozen.step(GRADS, refrozen, params)


def test_the_state_of_another_choice_is_refused():
    frozen, whole = optadamw.adamw(0.1, groups=FROZEN), optadamw.adamw(0.1)
    with pytest.raises(ValueError, match=r"vocab/table.*it is frozen, and `state` has"):
        frozen.step(GRADS, whole.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match=r"vocab/table.*its buffer is"):
        whole.step(GRADS, frozen.init(PARAMS), PARAMS)


def test_words_beside_it_are_refused():
    with pytest.raises(ValueError, match=r"vocab.*frozen.*learning_rate=0\.1"):
        optadamw.adamw(0.1, groups={"vocab/*": {"freeze": True, "learning_rate": 0.1}})
    with pytest.raises(TypeError, match=r"groups\['vocab/\*'\]\['freeze'\].*True or"):
        optadamw.adamw(0.1, groups={"vocab/*": {"freeze": 1}})
    with pytest.raises(ValueError, match=r"'freez' is no.*Did you mean `freeze`"):
        optadamw.adamw(0.1, groups={"vocab/*": {"freez": True}})
    with pytest.raises(ValueError, match="matches no parameter"):
        optadamw.adamw(0.1, groups={"embd/*": {"freeze": True}}).init(PARAMS)
    # False is what a group without the word does.
    thawed = optadamw.adamw(0.1, groups={"vocab/*": {"freeze": False, "b1": 0.5}})
    assert thawed == optadamw.adamw(0.1, groups={"vocab/*": {"b1": 0.5}})


def test_the_rest_of_a_chain_trains():
    chained = optadamw.chain(
        optadamw.scale_by_adam(),
        optadamw.add_decoupled_weight_decay(1e-4),
        optadamw.scale_by_learning_rate(0.1),
    )
    tx = optadamw.param_groups(chained, {"vocab/*": optadamw.freeze()})
    assert tx == optadamw.adamw(0.1, groups=FROZEN)
    assert repr(optadamw.freeze()) == "freeze()"
    with pytest.raises(ValueError, match=r"rest of param_groups.*'!head"):
        optadamw.param_groups(optadamw.freeze(), {"head/*": chained})
    all_but = optadamw.param_groups(chained, [(("!head/*",), optadamw.freeze())])
    jax.tree.map(
        np.testing.assert_array_equal,
        run(all_but, PARAMS, GRADS)[0],
        run(tx, PARAMS, GRADS)[0],
    )


@pytest.mark.filterwarnings("ignore:.*nothing trains")
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_everything_frozen(options):
    tx = optadamw.adamw(0.1, groups={"*": {"freeze": True}}, **options)
    params, state = run(tx, PARAMS, GRADS)
    jax.tree.map(np.testing.assert_array_equal, params, PARAMS)
    assert state.mu == jax.tree.map(lambda _: None, PARAMS)


def test_alone_it_changes_nothing():
    params, state = run(optadamw.freeze(), PARAMS, GRADS)
    jax.tree.map(np.testing.assert_array_equal, params, PARAMS)
    updates, _ = optadamw.freeze().update(GRADS, state)
    jax.tree.map(lambda u: np.testing.assert_array_equal(np.signbit(u), True), updates)


def test_commits_look_at_what_trains():
    params = PARAMS | {"vocab": {"table": jnp.ones((2, 2), jnp.bfloat16)}}
    with pytest.raises(ValueError, match="commit"):
        optadamw.adamw(0.1, groups=FROZEN, commit="master").init(params)
    narrow = {"vocab": PARAMS["vocab"], "head": {"kernel": params["vocab"]["table"]}}
    tx = optadamw.adamw(0.1, groups=FROZEN, commit="master")
    state = tx.init(narrow)
    assert state.residual["vocab"]["table"] is None
    assert state.residual["head"]["kernel"].dtype != jnp.bfloat16


def test_states_of_other_libraries():
    saved = {
        "state": {
            n: {
                "step": 3.0,
                "exp_avg": np.full(p.shape, 0.5, np.float32),
                "exp_avg_sq": np.full(p.shape, 0.25, np.float32),
            }
            for n, p in enumerate(jax.tree.leaves(PARAMS))
            if p.shape != (4, 8)
        },
        "param_groups": [{"lr": 0.1, "params": [0, 1, 2]}],
    }
    tx = optadamw.adamw(0.1, groups=FROZEN)
    state = optadamw.interchange.from_torch(saved, PARAMS, tx=tx)
    assert state.mu["vocab"]["table"] is None
    tx.step(GRADS, state, PARAMS)
    back = optadamw.interchange.to_torch(state, PARAMS, tx=tx)["state"]
    np.testing.assert_array_equal(back[0]["exp_avg"], saved["state"][0]["exp_avg"])
    np.testing.assert_array_equal(back[2]["exp_avg"], jnp.zeros((4, 8)))
