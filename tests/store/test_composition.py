"""Stores inside wrappers, chains, the modes of JAX and Flax NNX."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import blockwise, checkpoint
from tests.store.runs import (
    EIGHT,
    GRADS,
    PARAMS,
    SIXTEEN,
    assert_fails,
    each_form,
    eight,
    run,
)
from tests.support import trees
from tests.support.compilations import Compilations


def assert_same_run(actual, expected):
    """Types, and all but the few bits that depend on the program that XLA makes."""
    trees.assert_same_types(actual, expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        if a.dtype in (jnp.uint8, jnp.bfloat16):
            assert np.mean(np.asarray(a) == np.asarray(e)) > 0.99
        else:
            np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-6)


# --- Composition ---------------------------------------------------------------------


@each_form
def test_a_bad_gradient_leaves_codes_and_scales(form):
    tx = eight(form=form, amsgrad=True, ema_decay=0.9, skip_nonfinite=True)
    params, state = run(tx, GRADS[:2], PARAMS)
    for bad in (jnp.nan, jnp.inf):
        grads = GRADS[2] | {"kernel": GRADS[2]["kernel"].at[3, 5].set(bad)}
        for step in (tx.step, jax.jit(tx.step)):
            after, following = step(grads, state, params)
            trees.assert_same_bits(after, params)
            for name in optadamw.State._fields:
                if name not in ("events", "stats"):
                    trees.assert_same_bits(
                        getattr(following, name), getattr(state, name)
                    )
    assert int(optadamw.stats_of(following).skipped) == 1


@each_form
def test_a_state_goes_on_bit_for_bit(form, tmp_path):
    tx = eight(form=form, amsgrad=True, ema_decay=0.9, ema_dtype=SIXTEEN, seed=3)
    straight = run(tx, GRADS, PARAMS)
    params, state = run(tx, GRADS[:3], PARAMS)
    portable = checkpoint.to_portable(tx, state)
    np.savez(tmp_path / "state.npz", **portable)
    with np.load(tmp_path / "state.npz") as loaded:
        restored, report = checkpoint.restore(tx, PARAMS, loaded, expect_step=3)
    assert not report.fresh
    for again in (restored, pickle.loads(pickle.dumps(state)), copy.deepcopy(state)):
        trees.assert_same_bits(again, state)
        trees.assert_same_bits(run(tx, GRADS[3:], params, again), straight)


@each_form
def test_a_scan_and_a_vmap_and_in_place(form):
    tx = eight(form=form)
    straight = run(tx, GRADS, PARAMS)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *GRADS)

    def body(pair, g):
        return tuple(tx.step(g, pair[1], pair[0])), None

    scanned, _ = jax.jit(lambda p: jax.lax.scan(body, p, stacked))(
        (PARAMS, tx.init(PARAMS))
    )
    assert_same_run(scanned, straight)

    donated = jax.tree.map(jnp.copy, PARAMS), tx.init(PARAMS)
    for g in GRADS:
        old = donated
        donated = tuple(tx.jit_step(g, old[1], old[0]))
        assert old[1].mu["kernel"].is_deleted()
    trees.assert_same_bits(donated, straight)

    several = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), PARAMS)
    pair, step = (several, jax.vmap(tx.init)(several)), jax.jit(jax.vmap(tx.step))
    for g in GRADS:
        g = jax.tree.map(lambda x: jnp.stack([x, -x]), g)
        pair = tuple(step(g, pair[1], pair[0]))
    assert_same_run(jax.tree.map(lambda x: x[0], pair), straight)


@each_form
def test_the_second_call_traces_nothing(form):
    tx, traced = eight(form=form, amsgrad=True), []

    @jax.jit
    def step(grads, state, params):
        traced.append(1)
        return tuple(tx.step(grads, state, params))

    params, state = step(GRADS[0], tx.init(PARAMS), PARAMS)
    with Compilations() as compiled:
        for g in GRADS[1:3]:
            params, state = step(g, state, params)
    assert len(traced) == 1
    assert compiled.count == 0


@each_form
def test_update_and_apply_updates(form):
    tx = eight(form=form)
    params, state = run(tx, GRADS, PARAMS)
    other, kept, update = PARAMS, tx.init(PARAMS), jax.jit(tx.update)
    for g in GRADS:
        updates, kept = update(g, kept, other)
        other = optax.apply_updates(other, updates)
    trees.assert_same_types(kept, state)
    assert trees.largest_difference(other, params) < 1e-5
    assert trees.largest_difference(kept.mu["scale"], state.mu["scale"]) < 1e-5
    trees.assert_same_bits(kept.mu["kernel"], state.mu["kernel"])
    trees.assert_same_bits(kept.nu_scales, state.nu_scales)


@each_form
def test_micro_batches_are_one_batch(form):
    """The mean of equal gradients is the gradient, so the codes are the same."""
    _, state = run(eight(form=form), GRADS, PARAMS)
    tx = eight(form=form, accumulate_steps=4)
    _, several = run(tx, [g for g in GRADS for _ in range(4)], PARAMS)
    assert int(several.step) == int(state.step)
    for name in ("mu", "nu", "mu_scales", "nu_scales"):
        trees.assert_same_bits(getattr(several, name), getattr(state, name))


def test_an_open_window_leaves_the_moments():
    tx = eight(accumulate_steps=3)
    params, state = run(tx, GRADS[:3], PARAMS)
    _, later = run(tx, GRADS[3:5], params, state)
    assert int(later.micro_step) == 2
    for name in ("mu", "nu", "mu_scales", "nu_scales"):
        trees.assert_same_bits(getattr(later, name), getattr(state, name))


@each_form
def test_groups(form):
    """A group changes its own leaves; all other leaves keep their bits."""
    params, state = run(eight(form=form), GRADS, PARAMS)
    tx = eight(form=form, groups={"odd": {"b1": 0.5, "learning_rate": 0.1}})
    grouped, kept = run(tx, GRADS, PARAMS)
    trees.assert_same_bits(grouped["kernel"], params["kernel"])
    for name in ("mu", "nu"):
        trees.assert_same_bits(
            getattr(kept, name)["kernel"], getattr(state, name)["kernel"]
        )
    assert not np.array_equal(kept.mu["odd"], state.mu["odd"])
    trees.assert_same_bits(kept.nu["odd"], state.nu["odd"])


def test_seeds_are_seeds():
    tx = eight(seed=5)
    assert optadamw.with_seed(eight(), 5) == optadamw.with_seed(eight(), 5) != eight()
    results = [run(t, GRADS, PARAMS) for t in (eight(), eight(seed=0), tx)]
    trees.assert_same_bits(results[0], results[1])
    assert not np.array_equal(results[2][1].mu["kernel"], results[0][1].mu["kernel"])
    trees.assert_same_bits(
        run(optadamw.with_seed(eight(), 5), GRADS, PARAMS), results[2]
    )
    array = eight(seed=jnp.asarray(5, jnp.uint32))
    trees.assert_same_bits(run(array, GRADS, PARAMS), results[2])


def test_the_two_moments_draw_bits_of_their_own():
    _, state = run(
        eight(form=SIXTEEN), [{"w": jnp.ones((64, 64))}], {"w": jnp.ones((64, 64))}
    )
    up = [np.asarray(x["w"], np.float64) for x in (state.mu, state.nu)]
    one, other = (x > x.mean() for x in up)
    assert 0 < one.mean() < 1
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4 / 64


def test_a_chain_with_a_guard_is_adamw():
    chained = optadamw.skip_nonfinite(
        optadamw.chain(
            optadamw.scale_by_adam(mu_dtype=EIGHT, nu_dtype=EIGHT),
            optadamw.amsgrad_max("raw", dtype=EIGHT),
            optadamw.add_decoupled_weight_decay(1e-4),
            optadamw.scale_by_learning_rate(1e-2),
            optadamw.ema_params(0.9, dtype=SIXTEEN),
        )
    )
    tx = eight(amsgrad=True, ema_decay=0.9, ema_dtype=SIXTEEN)
    trees.assert_same_bits(run(chained, GRADS, PARAMS), run(tx, GRADS, PARAMS))


@pytest.mark.parametrize("precision", ["mixed", "compact"])
def test_presets_compose(precision):
    params = {"w": jnp.ones((64, 64), jnp.bfloat16), "scale": jnp.ones(4)}
    tx = optadamw.adamw(
        1e-2,
        precision=precision,
        amsgrad=True,
        nesterov=True,
        clip_global_norm=1.0,
        caution=True,
        accumulate_steps=2,
        ema_decay=0.9,
        loss_scale=optadamw.DynamicLossScale(),
        stats=True,
    )
    grads = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size)).reshape(p.shape), params)
    after, state = run(tx, [grads] * 4, params)
    assert int(state.step) == 2
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((after, state)))
    assert not np.array_equal(after["w"], params["w"])


# --- Modes of JAX --------------------------------------------------------------------


@each_form
def test_strict_promotion_and_debug_nans(form):
    tx = eight(form=form, amsgrad=True)
    expected = run(tx, GRADS, PARAMS)
    with jax.numpy_dtype_promotion("strict"), jax.debug_nans(True):
        pair = run(tx, GRADS, PARAMS)
        zeros = jax.tree.map(jnp.zeros_like, PARAMS)
        huge = jax.tree.map(lambda x: jnp.full_like(x, 1e15), PARAMS)
        run(tx, [zeros, huge, zeros], PARAMS)
    trees.assert_same_bits(pair, expected)


def test_with_64_bits_switched_on():
    expected = run(eight(amsgrad=True), GRADS, PARAMS)
    with jax.enable_x64(True):
        pair = run(eight(amsgrad=True), GRADS, PARAMS)
        assert_same_run(pair, expected)
        tx, params = eight(), {"a": {"w": jnp.ones((4, 8), jnp.float64)}}
        assert_fails(TypeError, "Leaf 'a/w': it is float64", tx.init, params)
        kept = eight(form=blockwise(min_size=0, keep="a/*"))
        assert kept.init(params).mu["a"]["w"].dtype == jnp.float64


def test_without_jit():
    params, tx = {"w": PARAMS["kernel"]}, eight()
    grads = [{"w": g["kernel"]} for g in GRADS[:2]]
    expected = run(tx, grads, params)
    with jax.disable_jit():
        pair = params, tx.init(params)
        for g in grads:
            pair = tuple(tx.step(g, pair[1], pair[0]))
    assert_same_run(pair, expected)


# --- Flax NNX ------------------------------------------------------------------------


def test_nnx():
    """Flax's optimizer and ours, twice in a row; the scales have the metadata too."""
    nnx = pytest.importorskip("flax.nnx")
    from optadamw.integrations.flax_nnx import Optimizer

    class Model(nnx.Module):
        def __init__(self, rngs):
            names = nnx.with_partitioning(
                nnx.initializers.lecun_normal(), (None, "model"), eager_sharding=False
            )
            self.first = nnx.Linear(3, 64, kernel_init=names, rngs=rngs)
            self.second = nnx.Linear(64, 64, rngs=rngs)

        def __call__(self, x):
            return self.second(nnx.relu(self.first(x)))

    @nnx.jit
    def train(model, optimizer, x):
        loss = lambda model: jnp.mean(model(x) ** 2)  # noqa: E731
        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value

    x, losses, codes = jnp.linspace(-1, 1, 12).reshape(4, 3), {}, {}
    for kind in (nnx.Optimizer, Optimizer):
        model = Model(nnx.Rngs(0))
        optimizer = kind(model, eight(1e-2), wrt=nnx.Param)
        losses[kind] = [float(train(model, optimizer, x)) for _ in range(4)]
        state = optimizer.opt_state
        assert state.mu["second"]["kernel"].dtype == jnp.uint8
        assert state.nu_scales["second"]["kernel"].shape == (2, 64)
        for name in ("mu", "mu_scales"):
            variable = getattr(state, name)["first"]["kernel"]
            assert variable.get_metadata() == model.first.kernel.get_metadata()
        codes[kind] = nnx.as_pure(state)
        assert np.isfinite(
            optadamw.dequantize(codes[kind]).nu["second"]["kernel"]
        ).all()
    assert losses[Optimizer][-1] < losses[Optimizer][0]
    np.testing.assert_allclose(losses[Optimizer], losses[nnx.Optimizer], rtol=1e-3)
