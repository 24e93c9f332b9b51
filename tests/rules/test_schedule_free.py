"""Schedule-free AdamW beside float64, schedulefree and Optax, and its average."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from optadamw import (
    add_decoupled_weight_decay,
    chain,
    checkpoint,
    ema_of,
    ema_params,
    scale_by_adam,
    scale_by_learning_rate,
    scale_by_second_moment,
    schedule_free,
    schedule_free_adamw,
    schedules,
)
from optadamw.base.clock import Clock
from optadamw.rules.rule import Shared
from tests.support import floats

SHAPES = {"w": (5, 3), "b": (3,)}
STEPS = 12
ULPS = 8.0
"""As in `tests.support.comparison`, of the magnitudes that are added."""


def problem():
    rng = np.random.default_rng(0)
    params = {k: rng.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}
    grads = [
        {k: (rng.normal(size=s) * 10.0 ** (t % 3 - 1)).astype("f4")}
        | {n: rng.normal(size=q).astype("f4") for n, q in SHAPES.items() if n != k}
        for t in range(STEPS)
        for k, s in [("w", SHAPES["w"])]
    ]
    return params, grads


def states_of(tx, dtype=jnp.float32):
    """Yield gradients, and parameters and state before and after each step."""
    params, grads = problem()
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), params)
    before, step = (params, tx.init(params)), jax.jit(tx.step)
    for gradient in grads:
        after = step(gradient, before[1], before[0])
        yield gradient, before, after
        before = after


def trained(tx, dtype=jnp.float32):
    *_, (_, _, after) = states_of(tx, dtype)
    return after


def weight(t, warmup, power, step_power=0.0):
    """Return c_t: the weight of step t over the sum of all weights so far."""
    weights = [
        (i / t) ** step_power * (min(i / warmup, 1.0) ** power if warmup else 1.0)
        for i in range(1, t + 1)
    ]
    return weights[-1] / sum(weights)


PLAIN = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
KNOBS = [
    {},
    {"b1": 0.6},
    {"b1": 1.0},
    {"b1": 0.0},
    {"b2": 0.9},
    {"eps": 0.3},
    {"weight_decay": 0.3},
    {"weight_decay": 0.3, "mask": "w"},
    {"warmup_steps": 5},
    {"warmup_steps": 5, "weight_power": 0.0},
    {"warmup_steps": 1, "weight_power": 3.0},
    {"warmup_steps": 20, "weight_power": 0.5, "weight_decay": 0.3, "b1": 0.7},
    {"step_power": 1.5},
    {"step_power": 0.25, "warmup_steps": 5, "weight_power": 3.0},
]


@pytest.mark.parametrize("options", KNOBS, ids=str)
def test_each_step_is_that_of_float64(options):
    weighted = {"warmup_steps": 0, "weight_power": 2.0, "step_power": 0.0}
    h = PLAIN | weighted | {"mask": None} | options
    rate = 0.03
    tx = schedule_free_adamw(rate, **options)
    for t, (grads, before, after) in enumerate(states_of(tx), start=1):
        warm = min(t / h["warmup_steps"], 1.0) if h["warmup_steps"] else 1.0
        powers = h["weight_power"], h["step_power"]
        take = weight(t, h["warmup_steps"], *powers)
        for name in SHAPES:
            decay = h["weight_decay"] if h["mask"] in (None, name) else 0.0
            g, p, nu, z, x = (
                np.asarray(a, np.float64)
                for a in (
                    *(grads[name], before[0][name], before[1].nu[name]),
                    *(before[1].custom["z"][name], before[1].ema[name]),
                )
            )
            nu = h["b2"] * nu + (1 - h["b2"]) * g**2
            d = g / (np.sqrt(nu / (1 - h["b2"] ** t)) + h["eps"])
            moved = -rate * warm * (d + decay * p)
            size_z = np.abs(z) + rate * warm * (np.abs(d) + decay * np.abs(p))
            size_x = (1 - take) * np.abs(x) + take * size_z
            size_y = (1 - h["b1"]) * size_z + h["b1"] * size_x + np.abs(p)
            z = z + moved
            x = (1 - take) * x + take * z
            y = (1 - h["b1"]) * z + h["b1"] * x
            for found, expected, size in (
                (after[1].nu[name], nu, nu),
                (after[1].custom["z"][name], z, size_z),
                (after[1].ema[name], x, size_x),
                (after[0][name], y, size_y),
            ):
                error = np.abs(np.asarray(found, np.float64) - expected)
                assert (error <= ULPS * floats.ulp(size, np.float32)).all(), (t, name)


@pytest.mark.parametrize("power", [0.1, 0.5, 1.0, 2.0, 7.3, 100.0])
@pytest.mark.parametrize("warmup", [0, 3, 300])
def test_the_weights_by_the_number_of_the_step(power, warmup):
    """Beyond the table too, where they are a series."""
    tx = schedule_free_adamw(0.1, step_power=power, warmup_steps=warmup)
    rule = tx.recipe.composition.rules[-1]
    for t in (1, 2, 5, 40, 200, 301, 400, 3000):
        clock = Clock.at(jnp.int32(t - 1))
        found = rule.scalars(clock, Shared((rule,), clock))["take"]
        np.testing.assert_allclose(found, weight(t, warmup, 2.0, power), rtol=4e-6)


@pytest.mark.parametrize("power", [0.0, 1.5])
@pytest.mark.parametrize("warmup", [0, 5])
def test_the_numbers_of_schedulefree(warmup, power):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    peer = pytest.importorskip("schedulefree", reason="schedulefree is not installed")
    params, grads = problem()
    theirs = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in params.items()}
    optimizer = peer.AdamWScheduleFree(
        list(theirs.values()),
        lr=0.03,
        betas=(0.8, 0.95),
        eps=1e-6,
        weight_decay=0.2,
        warmup_steps=warmup,
        r=power,
        foreach=False,
    )
    optimizer.train()
    for gradient in grads:
        for name, param in theirs.items():
            param.grad = torch.tensor(gradient[name])
        optimizer.step()
    tx = schedule_free_adamw(
        *(0.03, 0.8, 0.95, 1e-6, 0.2), warmup_steps=warmup, step_power=power
    )
    ours, state = trained(tx)
    for found, mode in ((ours, None), (ema_of(state), optimizer.eval)):
        if mode is not None:
            mode()
        for name, param in theirs.items():
            expected = param.detach().numpy()
            np.testing.assert_allclose(found[name], expected, rtol=2e-5, atol=2e-6)


def test_the_numbers_of_optax():
    """Without a warm-up, in which its steps and its weights are a step apart."""
    numbers = {"b1": 0.8, "b2": 0.95, "eps": 1e-6, "weight_decay": 0.2}
    peer = optax.contrib.schedule_free_adamw(0.03, **numbers)
    params, grads = problem()
    theirs = jax.tree.map(jnp.asarray, params)
    state = peer.init(theirs)
    for gradient in grads:
        updates, state = peer.update(gradient, state, theirs)
        theirs = optax.apply_updates(theirs, updates)
    evaluated = optax.contrib.schedule_free_eval_params(state, theirs)
    ours, held = trained(schedule_free_adamw(0.03, **numbers))
    for name, param in theirs.items():
        np.testing.assert_allclose(ours[name], param, rtol=2e-5, atol=2e-6)
        average = ema_of(held)[name]
        np.testing.assert_allclose(average, evaluated[name], rtol=2e-5, atol=2e-6)


def test_the_average_of_bfloat16_parameters_is_exact():
    """The mean of z; in Optax the sum of weights stands still after 512 steps."""
    steps, rate = 1500, 2.0**-13  # a step of float32 is exact
    grads, first = jnp.ones(64, jnp.bfloat16), jnp.ones(64, jnp.bfloat16)
    tx = schedule_free_adamw(rate)
    peer = optax.contrib.schedule_free_adamw(rate)

    def ours(carry, _):
        params, state = carry
        return tx.step(grads, state, params), None

    def theirs(carry, _):
        params, state = carry
        updates, state = peer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    start = first, tx.init(first)
    run = jax.jit(
        lambda step, carry: jax.lax.scan(step, carry, length=steps)[0], static_argnums=0
    )
    (_, state), (params, peers) = (
        run(ours, start),
        run(theirs, (first, peer.init(first))),
    )
    exact = 1.0 - rate * (steps + 1) / 2
    np.testing.assert_allclose(ema_of(state), exact, rtol=1e-6)
    found = optax.contrib.schedule_free_eval_params(peers, params)
    assert np.abs(np.asarray(found, np.float64) - exact).min() > 0.05
    assert float(peers.weight_sum) < 0.4 * steps * rate**2


def test_evaluation_is_an_exchange_that_a_step_refuses():
    tx = schedule_free_adamw(0.03)
    params, state = trained(tx)
    average, swapped = optadamw.swap_ema(state, params)
    jax.tree.map(np.testing.assert_array_equal, average, ema_of(state))
    with pytest.raises((TypeError, ValueError), match="got Swapped"):
        tx.step(params, swapped, average)
    back, held = optadamw.swap_ema(swapped, average)
    jax.tree.map(np.testing.assert_array_equal, (back, held), (params, state))
    final = optadamw.finalize(state, params)
    jax.tree.map(np.testing.assert_array_equal, final, average)


def test_it_is_one_pass_in_place():
    shapes = {"w": jax.ShapeDtypeStruct((1024, 1024), jnp.float32)}
    tx = schedule_free_adamw(0.03, warmup_steps=100)
    compiled = tx.jit_step.lower(shapes, tx.init(shapes), shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 1024
    assert compiled.memory_analysis().alias_size_in_bytes == 4 * 4 * 2**20 + 4


@pytest.mark.parametrize("form", ["16-bit", "8-bit", "master"])
def test_it_trains_in_short_forms(form):
    short = optadamw.stochastic("bfloat16")
    tx = {
        "16-bit": schedule_free_adamw(
            1e-2, nu_dtype=short, z_dtype=short, ema_dtype=short
        ),
        "8-bit": optadamw.skip_nonfinite(
            schedule_free_adamw(1e-2, nu_dtype=optadamw.blockwise(min_size=0))
        ),
        "master": optadamw.with_commit(schedule_free_adamw(1e-2), "master"),
    }[form]
    dtype = jnp.bfloat16 if form == "master" else jnp.float32
    params = {"w": jnp.ones((64, 256), dtype)}
    state, step = tx.init(params), jax.jit(tx.step)
    for _ in range(20):
        params, state = step(jax.tree.map(jnp.ones_like, params), state, params)
    mean = float(jnp.mean(ema_of(state)["w"].astype(jnp.float32)))
    assert abs(mean - (1 - 1e-2 * 21 / 2)) < 2e-3


def test_windows_guards_groups_and_adjustable_rates():
    params = {"a": jnp.ones(3), "b": jnp.ones(3)}
    grads = jax.tree.map(jnp.ones_like, params)
    plain = schedule_free_adamw(0.1)
    expected = plain.step(grads, plain.init(params), params)
    tx = optadamw.multi_steps(optadamw.skip_nonfinite(plain), 2)
    now = params, tx.init(params)
    for _ in range(2):
        now = tx.step(grads, now[1], now[0])
    jax.tree.map(np.testing.assert_array_equal, now[0], expected[0])
    bad = jax.tree.map(lambda x: x * jnp.nan, grads)
    guarded = optadamw.skip_nonfinite(plain)
    kept, state = guarded.step(bad, guarded.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, kept, params)
    assert int(state.step) == 0

    grouped = optadamw.param_groups(plain, [("b", schedule_free_adamw(0.2))])
    after, _ = grouped.step(grads, grouped.init(params), params)
    np.testing.assert_allclose(after["a"], 0.9, rtol=1e-6)
    np.testing.assert_allclose(after["b"], 0.8, rtol=1e-6)

    tx = schedule_free_adamw(optadamw.adjustable(0.1, name="rate"))
    state = tx.with_hyperparameters(tx.init(params), rate=0.3)
    after, _ = tx.step(grads, state, params)
    np.testing.assert_allclose(after["a"], 0.7, rtol=1e-6)


def test_a_checkpoint_has_its_buffers_by_name():
    tx = schedule_free_adamw(0.03)
    params, state = trained(tx)
    saved = optadamw.checkpoint.to_portable(tx, state)
    assert {"z/w", "ema/w", "nu/w"} <= saved.keys()
    restored, _ = optadamw.checkpoint.restore(tx, params, saved)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    with pytest.raises(ValueError, match="`z`, the steps of schedule_free"):
        optadamw.interchange.to_torch(state, params, tx=tx, drop=("ema",))


def test_what_would_not_mean_what_it_says_is_refused():
    rms, rate = scale_by_second_moment(), scale_by_learning_rate(0.1)
    falling = schedules.linear_schedule(0.1, 0.0, 10)
    for parts, words in (
        ((rms, schedule_free(), rate), "no scale_by_learning_rate stands right before"),
        ((schedule_free(),), "no scale_by_learning_rate stands right before"),
        (
            (rms, rate, add_decoupled_weight_decay(), schedule_free()),
            "change its meaning",
        ),
        ((scale_by_adam(), rate, schedule_free()), r"Use scale_by_second_moment\("),
        ((rms, scale_by_learning_rate(falling), schedule_free()), "warmup_steps="),
        ((rms, rate, schedule_free(), ema_params(0.9)), "both claim the buffer `ema`"),
        ((rms, rate, schedule_free(), schedule_free()), "both claim|right before"),
    ):
        with pytest.raises(ValueError, match=words):
            chain(*parts)
    with pytest.raises(ValueError, match="warmup_steps="):
        schedule_free_adamw(optadamw.adjustable(1.0, name="peak") * falling)
    for options, error in (
        ({"b1": 1.1}, ValueError),
        ({"warmup_steps": -1}, ValueError),
        ({"warmup_steps": 2.5}, ValueError),
        ({"weight_power": -1.0}, ValueError),
        ({"weight_power": 1e39}, ValueError),
        ({"weight_power": "2"}, TypeError),
        ({"step_power": -1.0}, ValueError),
        ({"step_power": 101.0}, ValueError),
        ({"step_power": True}, TypeError),
        ({"z_dtype": "bfloat16"}, ValueError),
        ({"ema_dtype": optadamw.blockwise()}, ValueError),
    ):
        with pytest.raises(error, match=f"`{next(iter(options))}` must be"):
            schedule_free(**options)


def test_a_high_power_of_the_warmup_is_no_nan():
    tx = optadamw.schedule_free_adamw(
        0.01, warmup_steps=np.int64(1000), weight_power=120
    )
    params = jnp.ones(3)
    params, _ = tx.step(params, tx.init(params), params)
    assert jnp.isfinite(params).all()
    assert optadamw.schedule_free_adamw(0.01, warmup_steps=1e3) is not None


def test_another_average_is_not_taken_for_that_of_schedule_free():
    old, new = optadamw.adamw(0.01, ema_decay=0.9), optadamw.schedule_free_adamw(0.01)
    params = {"w": jnp.ones(3)}
    _, state = old.step(params, old.init(params), params)
    for made_by, tx in ((old, new), (new, old)):
        saved = state if made_by is old else new.init(params)
        with pytest.raises(ValueError, match=r"`ema` was saved as .*afresh"):
            checkpoint.restore(tx, params, saved, made_by=made_by)
    restored, _ = checkpoint.restore(new, params, state, made_by=old, afresh=("ema",))
    assert (restored.ema["w"] == params["w"]).all()


def test_optax_injects_its_hyperparameters():
    params, (gradient, *_) = problem()
    injected = optax.inject_hyperparams(schedule_free_adamw)(0.1, weight_decay=0.1)
    plain = schedule_free_adamw(*map(jnp.float32, (0.1, 0.9, 0.999, 1e-8, 0.1)))
    found, _ = injected.update(gradient, injected.init(params), params)
    wanted, _ = plain.update(gradient, plain.init(params), params)
    for name in params:
        np.testing.assert_array_equal(found[name], wanted[name])


def test_a_change_of_the_parameters_between_two_steps_has_no_effect():
    """The parameters follow from z and the average alone, as the docstring says."""
    tx = schedule_free_adamw(0.1)
    params, state = {"w": jnp.ones(3)}, tx.init({"w": jnp.ones(3)})
    grads = {"w": jnp.ones(3)}
    params, state = tx.step(grads, state, params)
    kept, _ = tx.step(grads, state, params)
    pruned, _ = tx.step(grads, state, {"w": jnp.zeros(3)})
    np.testing.assert_allclose(pruned["w"], kept["w"], rtol=1e-6)
