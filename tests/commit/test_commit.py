"""Commits of 16-bit parameters: exact, exact on average, or with the remainder kept."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import checkpoint
from optadamw.base.random_bits import Site, bits_at, rounded, step_key
from optadamw.commit.master import Master
from tests.support import trees

NARROW = (jnp.bfloat16, jnp.float16)
COMMITS = ("nearest", "stochastic", "kahan", "master")
each_narrow = pytest.mark.parametrize("dtype", NARROW, ids=lambda d: jnp.dtype(d).name)
each_commit = pytest.mark.parametrize("commit", COMMITS)


def tree(dtype, seed=0):
    """A 16-bit kernel and a float32 scale beside it."""
    rng = np.random.default_rng(seed)
    return {
        "kernel": jnp.asarray(rng.normal(size=(16, 24)), dtype),
        "scale": jnp.asarray(rng.normal(size=5), jnp.float32),
    }


def run(tx, params, steps=20, route="step"):
    state = tx.init(params)
    step = jax.jit(functools.partial(getattr(tx, route)))
    for i in range(steps):
        grads = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), tree("float32", i))
        if route == "step":
            params, state = step(grads, state, params)
        else:
            updates, state = step(grads, state, params)
            params = optax.apply_updates(params, updates)
    return params, state


def value_of(tx, params, state):
    """The kernel as rules see it."""
    commit = tx.recipe.composition.commit
    residual = None if state.residual is None else state.residual["kernel"]
    return commit.read(params["kernel"], {"residual": residual})


# --- master --------------------------------------------------------------------------


@each_narrow
def test_master_is_a_float32_training(dtype):
    """The number that rules see has the bits of a run on float32 parameters."""
    options = {"weight_decay": 0.1, "clip_global_norm": 1.0, "amsgrad": True}
    tx, wide = (
        optadamw.adamw(1e-3, commit=commit, **options) for commit in ("master", None)
    )
    start = tree(dtype)
    params, state = run(tx, start)
    exact, _ = run(wide, jax.tree.map(lambda p: p.astype(jnp.float32), start))
    trees.assert_same_bits(value_of(tx, params, state), exact["kernel"])
    trees.assert_same_bits(params["scale"], exact["scale"])
    assert state.residual["scale"] is None


def test_master_of_bfloat16_takes_two_bytes():
    tx = optadamw.adamw(1e-3, commit="master")
    for dtype, kept in ((jnp.bfloat16, "int16"), (jnp.float16, "float32")):
        params = tree(dtype)
        assert tx.init(params).residual["kernel"].dtype == kept
        assert f"residual {kept}" in optadamw.describe(tx, params)


def test_master_keeps_every_float32():
    """Over all exponents, halves, signs, subnormals and what is not finite."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 200_000, dtype=np.uint32)
    ties = (bits & 0xFFFF0000) | 0x8000
    edges = np.array([0, 0x80000000, 1, 0x7F7FFFFF, 0x7F7F8000, 0x00007FFF], np.uint32)
    numbers = np.concatenate([bits, ties, edges]).view(np.float32)
    param = jnp.zeros(numbers.shape, jnp.bfloat16)
    written, kept = Master().write(jnp.asarray(numbers), param, {}, None)
    back = np.asarray(Master().read(written, kept))
    finite = np.isfinite(numbers)
    np.testing.assert_array_equal(
        back[finite].view(np.uint32), numbers[finite].view(np.uint32)
    )
    nearest = np.asarray(jnp.asarray(numbers).astype(jnp.bfloat16)).astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.abs(np.asarray(written).astype(np.float64) - numbers)
        least = np.abs(nearest - numbers)
    normal = finite & np.isfinite(nearest)
    assert np.all(error[normal] <= least[normal])
    assert np.all(np.isnan(np.asarray(written)[np.isnan(numbers)].astype(np.float32)))


# --- Kahan ---------------------------------------------------------------------------


@each_narrow
def test_kahan_loses_no_small_update(dtype):
    """A thousand updates below half a unit, the weight decay's among them.

    Parameter and compensation in bfloat16 hold 16 bits together, and an update of 1e-5
    is one and a half units of those.
    """
    params = {"w": jnp.ones(8, dtype)}
    options = {"weight_decay": 0.1, "b1": 0.0, "b2": 0.0, "eps": 1.0}
    tx = optadamw.adamw(1e-4, commit="kahan", **options)
    still = optadamw.adamw(1e-4, **options)
    zero = {"w": jnp.zeros(8)}
    state, step = tx.init(params), jax.jit(tx.step)
    lost, idle, idle_step = params, still.init(params), jax.jit(still.step)
    for _ in range(1000):
        params, state = step(zero, state, params)
        lost, idle = idle_step(zero, idle, lost)
    assert np.all(np.asarray(lost["w"], np.float32) == 1.0)
    found = np.asarray(params["w"], np.float32) + np.asarray(
        state.residual["w"], np.float32
    )
    within = 1.2e-3 if dtype == jnp.bfloat16 else 2e-5
    np.testing.assert_allclose(found, (1 - 1e-5) ** 1000, atol=within)


# --- Stochastic rounding -------------------------------------------------------------


@each_narrow
def test_rounding_is_between_the_neighbours_and_unbiased(dtype):
    rng = np.random.default_rng(1)
    size = 10.0 ** rng.uniform(-4, 4, 64)
    numbers = (rng.choice([-1, 1], 64) * size).astype(np.float32)
    draws = 20_000
    target = jnp.broadcast_to(numbers, (draws, 64))
    noise = bits_at(Site(jnp.uint32(7), jnp.int32(0)), target.shape)
    got = np.asarray(rounded(target, noise, dtype)).astype(np.float64)
    nearest = np.asarray(jnp.asarray(numbers).astype(dtype)).astype(np.float64)
    around = [
        np.asarray(jnp.nextafter(jnp.asarray(nearest, dtype), jnp.asarray(to, dtype)))
        for to in (np.inf, -np.inf)
    ]
    gap = np.max([np.abs(x.astype(np.float64) - nearest) for x in around], axis=0)
    assert np.all(np.abs(got - numbers) <= gap * 1.001)
    error = got.mean(0) - numbers
    deviation = got.std(0) / np.sqrt(draws) + 1e-30
    assert np.max(np.abs(error) / np.maximum(deviation, gap * 1e-6)) < 4.5
    exact = jnp.asarray(nearest, jnp.float32)
    np.testing.assert_array_equal(
        rounded(exact, noise[0], dtype).astype(jnp.float32), exact
    )


def test_what_is_not_finite_and_the_largest_stay():
    noise = jnp.full(4, 0xFFFFFFFF, jnp.uint32)
    for dtype in NARROW:
        most = float(jnp.finfo(dtype).max)
        target = jnp.array([jnp.nan, jnp.inf, -jnp.inf, most], jnp.float32)
        got = np.asarray(rounded(target, noise, dtype)).astype(np.float32)
        np.testing.assert_array_equal(got, [np.nan, np.inf, -np.inf, most])


def test_the_bits_are_uniform_and_independent():
    """Mean, every bit, neighbours, leaves, steps and seeds."""
    shape = (256, 256)

    def draw(seed, step, leaf):
        key = step_key(float(seed), jnp.int32(step))
        return np.asarray(bits_at(Site(key, jnp.int32(leaf)), shape)).astype(np.uint32)

    first = draw(0, 0, 0)
    others = [draw(0, 0, 1), draw(0, 1, 0), draw(1, 0, 0), draw(0, 2**31 - 1, 0)]
    unit = first / 2**32 - 0.5
    spread = np.sqrt(1 / 12 / first.size)
    assert abs(unit.mean()) < 4 * spread
    for bit in range(32):
        share = ((first >> bit) & 1).mean()
        assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(first.size)
    pairs = [(unit[:, 1:], unit[:, :-1]), (unit[1:], unit[:-1])]
    pairs += [(unit, other / 2**32 - 0.5) for other in others]
    for one, other in pairs:
        correlation = (one * other).mean() * 12
        assert abs(correlation) < 4 / np.sqrt(one.size)


def test_the_mean_of_many_small_updates_is_right():
    """10,000 updates of a hundredth of a unit, and no bias."""
    params = {"w": jnp.ones((128, 128), jnp.bfloat16)}
    tx = optadamw.adamw(
        1e-4, b1=0.0, b2=0.0, eps=1.0, weight_decay=0.0, commit="stochastic"
    )
    grads = {"w": jnp.full((128, 128), -0.5)}

    def body(carry, _):
        params, state = carry
        return tx.step(grads, state, params), None

    steps = 10_000
    run = jax.jit(lambda c: jax.lax.scan(body, c, length=steps)[0])
    (params, _) = run((params, tx.init(params)))
    moved = np.asarray(params["w"], np.float64) - 1
    expected = steps * 1e-4 * (0.5 / 1.5)
    error = moved.mean() - expected
    assert abs(error) < 3 * moved.std() / np.sqrt(moved.size)


def test_the_bits_do_not_depend_on_where_they_are_drawn():
    """Sharded over eight devices, in a scan, member by member, and after a restart."""
    params, seeded = tree(jnp.bfloat16), {"commit": "stochastic", "seed": 11}
    tx = optadamw.adamw(1e-3, **seeded)
    grads = [jax.tree.map(jnp.sin, tree("float32", i)) for i in range(6)]
    step = jax.jit(tx.step)
    pair, after = (params, tx.init(params)), []
    for g in grads:
        pair = step(g, pair[1], pair[0])
        after.append(pair)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *grads)
    _, scanned = jax.jit(
        lambda c: jax.lax.scan(lambda c, g: (tx.step(g, c[1], c[0]),) * 2, c, stacked)
    )((params, tx.init(params)))
    trees.assert_same_bits(
        jax.tree.map(lambda x: x[-1], scanned), jax.tree.map(jnp.asarray, after[-1])
    )
    saved = checkpoint.to_portable(tx, after[2][1])
    state, _ = checkpoint.restore(tx, params, saved)
    pair = after[2][0], state
    for g in grads[3:]:
        pair = step(g, pair[1], pair[0])
    trees.assert_same_bits(pair, after[-1])
    other = optadamw.adamw(1e-3, commit="stochastic", seed=12)
    there = jax.jit(other.step)(grads[0], other.init(params), params)[0]
    assert not np.array_equal(there["kernel"], after[0][0]["kernel"])


def test_a_seed_for_each_member_of_a_vmap():
    params = tree(jnp.bfloat16)
    grads = jax.tree.map(lambda p: p.astype(jnp.float32), params)

    def one(seed):
        tx = optadamw.adamw(1e-3, commit="stochastic", seed=seed)
        return tx.step(grads, tx.init(params), params)[0]["kernel"]

    several = jax.vmap(one)(jnp.arange(3, dtype=jnp.uint32))
    assert not np.array_equal(several[0], several[1])
    tx = optadamw.adamw(1e-3, commit="stochastic", seed=2)
    alone = jax.jit(tx.step)(grads, tx.init(params), params)[0]["kernel"]
    trees.assert_same_bits(several[2], alone)


# --- All of them ---------------------------------------------------------------------


@each_narrow
@each_commit
def test_updates_land_on_what_step_writes(commit, dtype):
    """With float32 updates everywhere; in the parameter's dtype nearly everywhere."""
    tx = optadamw.adamw(1e-3, commit=commit, update_dtype="float32")
    stepped, state = run(tx, tree(dtype))
    applied, other = run(tx, tree(dtype), route="update")
    trees.assert_same_bits(applied["kernel"], stepped["kernel"])
    trees.assert_same_bits(other.residual, state.residual)


IN_FLOAT32 = (
    {"kahan": 0.5, "master": 0.5}
    if jax.__version_info__ >= (0, 12)
    else {"kahan": 2.0, "master": 3.25}
)
"""What XLA on CPU keeps, as a share of the bytes of bfloat16 parameters: the number
that is cut into parameter and residual is used twice, and no fusion has two results. It
is kept for one leaf after the other, where the barrier that says so is heeded.
"""


@each_commit
def test_in_place(commit):
    shape = jax.ShapeDtypeStruct((1024, 1024), jnp.bfloat16)
    params = {f"kernel{i}": shape for i in range(4)}
    tx = optadamw.adamw(1e-3, commit=commit, clip_global_norm=1.0, skip_nonfinite=True)
    state = tx.init(params)
    memory = tx.jit_step.lower(params, state, params).compile().memory_analysis()
    donated = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((params, state)))
    assert memory.alias_size_in_bytes == donated
    allowed = IN_FLOAT32.get(commit, 0.0) + 0.02
    assert memory.temp_size_in_bytes < allowed * 4 * 2**21


@each_commit
def test_a_bad_gradient_leaves_parameter_and_residual(commit):
    params = tree(jnp.bfloat16)
    tx = optadamw.adamw(1e-2, commit=commit, skip_nonfinite=True, ema_decay=0.5)
    state, step = tx.init(params), jax.jit(tx.step)
    good = jax.tree.map(lambda p: p.astype(jnp.float32), tree("float32", 1))
    params, state = step(good, state, params)
    bad = good | {"kernel": good["kernel"].at[0, 0].set(jnp.nan)}
    after, following = step(bad, state, params)
    trees.assert_same_bits(after, params)
    trees.assert_same_bits(following.residual, state.residual)


@each_commit
def test_windows_groups_averages_and_no_gradient(commit):
    params = tree(jnp.bfloat16)
    tx = optadamw.adamw(
        1e-2,
        commit=commit,
        accumulate_steps=2,
        groups={"scale": {"learning_rate": 0.1}},
        ema_decay=0.9,
        ema_overwrite_every=2,
        stats="norms",
    )
    state, step = tx.init(params), jax.jit(tx.step)
    half = {"kernel": None, "scale": jnp.ones(5)}
    full = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    for grads in (full, full, half, half):
        params, state = step(grads, state, params)
    assert int(state.step) == 2
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))


def test_a_parameter_that_apply_updates_rounded_to_zero_is_no_nan():
    """A bfloat16 0 beside a negative residual is a bit pattern below that of 0."""
    for zero in (0.0, -0.0):
        param = jnp.full(2, zero, jnp.bfloat16)
        residual = jnp.asarray([-5, 5], jnp.int16)
        value = Master().read(param, {"residual": residual})
        assert float(value[0]) == 0.0 and 0 < abs(float(value[1])) < 1e-40
    tx = optadamw.adamw(6e-4, commit="master")
    start = 0.02 * jax.random.normal(jax.random.key(0), (768,))
    params = start.astype(jnp.bfloat16)
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(100):
        updates, state = update(jnp.sin(jnp.arange(768.0)), state, params)
        params = optax.apply_updates(params, updates)
    assert np.isfinite(np.asarray(params, np.float32)).all()


@each_commit
def test_a_commit_can_be_changed_by_name(commit):
    params = tree(jnp.bfloat16)
    before = optadamw.adamw(1e-3, commit=commit)
    params, state = run(before, params, steps=3)
    saved = checkpoint.to_portable(before, state)
    for other in COMMITS:
        tx = optadamw.adamw(1e-3, commit=other)
        restored, _ = checkpoint.restore(tx, params, saved)
        if {commit, other} <= {"nearest", "stochastic"} or commit == other:
            trees.assert_same_bits(restored, state)
        tx.step(params, restored, params)


def test_commits_are_values_and_shown():
    tx = optadamw.adamw(0.1, commit="stochastic", seed=5)
    made = optadamw.with_commit(optadamw.adamw(0.1), "stochastic")
    assert tx == optadamw.with_seed(made, 5)
    assert repr(optadamw.with_seed(made, 5)).endswith("'stochastic'), seed=5)")
    assert tx != optadamw.adamw(0.1, commit="stochastic")
    assert repr(tx) == "adamw(0.1, commit='stochastic', seed=5)"
    assert optadamw.adamw(0.1, commit="nearest") == optadamw.adamw(0.1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"commit": "Master"}, ValueError, "`commit` must be one of 'nearest', "),
        ({"commit": 3}, TypeError, "`commit` must be one of"),
        ({"commit": "kahan", "seed": 3}, ValueError, "`seed` has no effect where"),
        ({"seed": 3}, ValueError, "`seed` has no effect where nothing is rounded at"),
        ({"commit": "stochastic", "seed": -1}, ValueError, "`seed` must be a whole"),
        ({"commit": "stochastic", "seed": 0.5}, TypeError, "`seed` must be a whole"),
        ({"commit": "stochastic", "seed": True}, TypeError, "`seed` must be a whole"),
    ],
)
def test_options_that_mean_nothing(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        optadamw.adamw(0.1, **options)


@pytest.mark.parametrize("commit", COMMITS[1:])
def test_a_tree_of_float32_is_refused(commit):
    tx = optadamw.adamw(0.1, commit=commit)
    for dtype, remedy in (
        ("float32", "leave `commit` out: float32 is written exactly"),
        ("float8_e4m3fn", "bfloat16, in which a step moves numbers that float8_e4m3fn"),
    ):
        message = f"commit='{commit}' is for 16-bit parameters.*{remedy}"
        with pytest.raises(ValueError, match=message):
            tx.init({"w": jnp.ones(2, dtype)})


def test_chains_that_write_nothing_and_two_commits():
    with pytest.raises(ValueError, match="has no learning rate"):
        optadamw.with_commit(optadamw.scale_by_adam(), "kahan")
    with pytest.raises(ValueError, match="has the commit 'kahan' already"):
        optadamw.with_commit(optadamw.adamw(0.1, commit="kahan"), "master")
    with pytest.raises(TypeError, match="`inner` must be a transformation"):
        optadamw.with_commit(optax.sgd(0.1), "kahan")
