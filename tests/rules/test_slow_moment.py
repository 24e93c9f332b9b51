"""AdEMAMix beside Optax's and bitsandbytes', and where its slow mean is refused."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import optadamw
from optadamw import (
    add_decoupled_weight_decay,
    add_slow_moment,
    cautious,
    chain,
    clip_by_norm,
    scale_by_adam,
    scale_by_learning_rate,
    schedules,
)

SHAPES = {"w": (5, 3), "b": (3,)}
RATE, DECAY, EPS = 0.03, 0.2, 1e-6
STEPS, WARMUP = 12, 8


def problem():
    rng = np.random.default_rng(0)
    params = {k: rng.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}
    grads = [
        {k: rng.normal(size=s).astype("f4") for k, s in SHAPES.items()}
        for _ in range(STEPS)
    ]
    return params, grads


def trained(tx):
    params, grads = problem()
    params = jax.tree.map(jnp.asarray, params)
    state, step = tx.init(params), jax.jit(tx.step)
    for gradient in grads:
        params, state = step(gradient, state, params)
    return params, state


def test_the_numbers_of_optax():
    numbers = {"b1": 0.8, "b2": 0.9, "eps": EPS, "weight_decay": DECAY}
    peer = optax.contrib.ademamix(RATE, b3=0.95, alpha=4.0, eps_root=1e-7, **numbers)
    params, grads = problem()
    theirs = jax.tree.map(jnp.asarray, params)
    state = peer.init(theirs)
    for gradient in grads:
        updates, state = peer.update(gradient, state, theirs)
        theirs = optax.apply_updates(theirs, updates)
    tx = optadamw.adamw(RATE, b3=0.95, slow_alpha=4.0, eps_root=1e-7, **numbers)
    ours, held = trained(tx)
    without, _ = trained(optadamw.adamw(RATE, eps_root=1e-7, **numbers))
    for name, param in theirs.items():
        np.testing.assert_allclose(ours[name], param, rtol=1e-5, atol=1e-6)
        slow = held.custom["mu_slow"][name]
        np.testing.assert_allclose(slow, state[0].m2[name], rtol=1e-6, atol=1e-7)
        assert not np.allclose(without[name], param, rtol=1e-2)


@pytest.mark.parametrize("warmup", [None, WARMUP])
def test_the_numbers_of_bitsandbytes(warmup):
    """Its reference in PyTorch, with and without the schedules of the paper."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from bitsandbytes.optim.ademamix import _ReferenceAdEMAMix

    params, grads = problem()
    theirs = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in params.items()}
    peer = _ReferenceAdEMAMix(
        # A group for each: within a group its schedules compound over parameters.
        [{"params": [param]} for param in theirs.values()],
        lr=RATE,
        betas=(0.8, 0.9, 0.99),
        alpha=4.0,
        eps=EPS,
        weight_decay=DECAY,
        t_alpha=warmup,
        t_beta3=warmup,
    )
    for gradient in grads:
        for name, param in theirs.items():
            param.grad = torch.tensor(gradient[name])
        peer.step()
    b3, alpha = 0.99, 4.0
    if warmup:
        b3 = schedules.slow_moment_schedule(0.8, 0.99, warmup)
        alpha = schedules.linear_schedule(alpha / warmup, alpha, warmup - 1)
    tx = optadamw.adamw(
        RATE, 0.8, 0.9, EPS, weight_decay=DECAY, b3=b3, slow_alpha=alpha
    )
    ours, _ = trained(tx)
    for name, param in theirs.items():
        expected = param.detach().numpy()
        np.testing.assert_allclose(ours[name], expected, rtol=1e-5, atol=2e-6)


def test_the_schedule_of_its_decay_has_a_half_life_that_grows_linearly():
    steps = np.arange(40)
    found = jax.jit(jax.vmap(schedules.slow_moment_schedule(0.9, 0.999, 30)))(steps)
    first, last = 1 / np.log(0.9), 1 / np.log(0.999)
    done = np.minimum((steps + 1) / 30, 1.0)
    expected = np.exp(1 / (first + done * (last - first)))
    np.testing.assert_allclose(found, expected, rtol=2e-7)
    assert (found[29:] == np.float32(0.999)).all()
    assert (np.diff(found[:30]) > 0).all()


def test_no_weight_has_the_bits_of_adamw():
    ours, _ = trained(optadamw.adamw(RATE, b3=0.9, slow_alpha=0.0))
    plain, _ = trained(optadamw.adamw(RATE))
    jax.tree.map(np.testing.assert_array_equal, ours, plain)


def test_it_is_one_pass_in_place():
    shapes = {"w": jax.ShapeDtypeStruct((1024, 1024), jnp.float32)}
    tx = optadamw.adamw(RATE, b3=0.9999)
    state = tx.init(shapes)
    compiled = tx.jit_step.lower(shapes, state, shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 1024
    assert compiled.memory_analysis().alias_size_in_bytes == 4 * 4 * 2**20 + 4


def test_the_step_uses_the_slow_mean_before_it_is_rounded():
    grads = {"w": jnp.asarray([0.3, -1.7, 0.011])}
    params = jax.tree.map(jnp.zeros_like, grads)
    plain = optadamw.adamw(RATE, b3=0.75)
    short = optadamw.adamw(RATE, b3=0.75, mu_dtype="bfloat16")
    (exact, full), (found, state) = (
        jax.jit(tx.step)(grads, tx.init(params), params) for tx in (plain, short)
    )
    np.testing.assert_array_equal(found["w"], exact["w"])
    rounded = np.asarray(full.custom["mu_slow"]["w"]).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(state.custom["mu_slow"]["w"], rounded)


@pytest.mark.parametrize("form", ["stochastic", "blockwise", "compact"])
def test_it_trains_in_short_forms(form):
    """The mean of gradients of 1 is 1 - b3^t, whatever keeps it."""
    options = {
        "stochastic": {"mu_dtype": optadamw.stochastic("bfloat16")},
        "blockwise": {"mu_dtype": optadamw.blockwise(min_size=0)},
        "compact": {"precision": "compact"},
    }[form]
    dtype = jnp.bfloat16 if form == "compact" else jnp.float32
    params = {"w": jnp.zeros((64, 256), dtype)}
    grads = jax.tree.map(jnp.ones_like, params)
    tx = optadamw.adamw(1e-3, b3=0.99, **options)
    state, step = tx.init(params), jax.jit(tx.step)
    for _ in range(30):
        params, state = step(grads, state, params)
    slow = state.custom["mu_slow"]["w"]
    if form != "stochastic":
        assert slow.dtype.itemsize == 1
        slow = optadamw.dequantize(state).custom["mu_slow"]["w"]
    mean = float(jnp.mean(slow.astype(jnp.float32)))
    assert abs(mean / (1 - 0.99**30) - 1) < 0.02


def test_groups_may_differ_in_it():
    groups = {"b": {"b3": 0.5, "slow_alpha": 1.0}}
    found, _ = trained(optadamw.adamw(RATE, b3=0.9, groups=groups))
    plain, _ = trained(optadamw.adamw(RATE, b3=0.9))
    other, _ = trained(optadamw.adamw(RATE, b3=0.5, slow_alpha=1.0))
    np.testing.assert_array_equal(found["w"], plain["w"])
    np.testing.assert_array_equal(found["b"], other["b"])


def test_a_checkpoint_has_it_by_name():
    tx = optadamw.adamw(RATE, b3=0.9)
    params, state = trained(tx)
    saved = optadamw.checkpoint.to_portable(tx, state)
    assert {"mu_slow/w", "mu_slow/b"} <= saved.keys()
    restored, report = optadamw.checkpoint.restore(tx, params, saved)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    _, report = optadamw.checkpoint.restore(optadamw.adamw(RATE), params, saved)
    assert set(report.left_over) == {"mu_slow/w", "mu_slow/b"}


def test_no_other_library_is_told_that_it_mixes():
    tx = optadamw.adamw(RATE, b3=0.9)
    params, state = trained(tx)
    with pytest.raises(ValueError, match="holds `mu_slow`, the slow mean of `b3`"):
        optadamw.interchange.to_torch(state, params, tx=tx)
    with pytest.raises(ValueError, match=r"tx.* b3"):
        optadamw.interchange.to_torch(state, params, tx=tx, drop=("mu_slow",))


def test_what_would_not_mean_what_it_says_is_refused():
    adam, rate = scale_by_adam(), scale_by_learning_rate(RATE)
    first = "no scale_by_adam stands right before it"
    for parts in (
        (add_slow_moment(), adam, rate),
        (adam, cautious(), add_slow_moment(), rate),
        (adam, clip_by_norm(1.0), add_slow_moment(), rate),
        (adam, add_decoupled_weight_decay(), add_slow_moment(), rate),
        (adam, rate, add_slow_moment()),
    ):
        with pytest.raises(ValueError, match=first):
            chain(*parts)
    with pytest.raises(ValueError, match="both claim the buffer `mu_slow`"):
        chain(adam, add_slow_moment(), add_slow_moment(), rate)
    with pytest.raises(ValueError, match="eps_mode='outside'"):
        optadamw.adamw(RATE, b3=0.9, eps_mode="hat")
    with pytest.raises(ValueError, match="`slow_alpha` has no effect without `b3`"):
        optadamw.adamw(RATE, slow_alpha=2.0)
    for value, error in ((1.0, ValueError), (-0.1, ValueError), ("1", TypeError)):
        with pytest.raises(error, match="`b3` must be"):
            optadamw.adamw(RATE, b3=value)
    with pytest.raises(ValueError, match="`slow_alpha` must be"):
        optadamw.adamw(RATE, b3=0.9, slow_alpha=-1.0)


def test_a_dtype_in_which_it_would_stand_still_is_refused():
    with pytest.raises(ValueError, match=r"`mu_dtype`.*b3=0.9999.*never decay"):
        optadamw.adamw(RATE, b3=0.9999, mu_dtype="bfloat16")
    rising = schedules.slow_moment_schedule(0.9, 0.99, 5)
    with pytest.raises(ValueError, match=r"b3=.*of which that is not known"):
        optadamw.adamw(RATE, b3=rising, mu_dtype="bfloat16")
    for b1, b3 in ((0.9, 0.8), (0.0, 0.9)):
        with pytest.raises(ValueError, match=r"`b[13]` must be"):
            schedules.slow_moment_schedule(b1, b3, 5)
