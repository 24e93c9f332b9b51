"""A sweep trains each member as a training alone, in one program."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from tests.support import lane, trees
from tests.tuning.training import X, Y, initial, loss_of, train_step

GRID = optadamw.grid_points(learning_rate=[1e-3, 1e-2, 0.1], weight_decay=[0.0, 0.1])


def adamw(learning_rate, weight_decay=0.0, **more):
    return optadamw.adamw(learning_rate, weight_decay=weight_decay, **more)


def with_more(learning_rate, weight_decay):
    return adamw(learning_rate, weight_decay, clip_global_norm=1.0, ema_decay=0.9)


def trained(made, steps, batch=()):
    members = made.init(initial())
    for _ in range(steps):
        members = made.step(members, *batch)
    return members


def test_each_member_is_a_training_alone_and_all_are_one_program():
    traces = 0

    def counted(*args):
        nonlocal traces
        traces += 1
        return train_step(*args)

    made = optadamw.sweep(counted, with_more, GRID)
    members = trained(made, 10, (X, Y))
    assert traces == 1 and len(made) == 6
    for index in (0, 5):
        point = {name: jnp.float32(column[index]) for name, column in GRID.items()}

        @jax.jit
        def alone(params, state, point=point):
            return train_step(with_more(**point), params, state)

        params = initial()
        state = with_more(**point).init(params)
        for _ in range(10):
            params, state, loss = alone(params, state)
        tx, own, own_state = made.member(members, index)
        assert jax.tree.structure(own_state) == jax.tree.structure(state)
        for found, wanted in zip(
            jax.tree.leaves((own, own_state)),
            jax.tree.leaves((params, state)),
            strict=True,
        ):
            # Products of matrices are summed in another order when they are batched.
            np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-6)
        np.testing.assert_allclose(members.loss[index], loss, rtol=1e-4)
        assert tx == with_more(**{n: c[index].item() for n, c in GRID.items()})


def test_a_member_goes_on_alone():
    made = optadamw.sweep(train_step, adamw, GRID)
    members = trained(made, 5)
    best = made.best(members)
    tx, params, state = made.member(members, best)
    before = loss_of(params)
    step = jax.jit(lambda params, state: train_step(tx, params, state))
    for _ in range(20):
        params, state, _ = step(params, state)
    assert int(state.step) == 25 and loss_of(params) < before


def test_a_stopped_member_keeps_every_bit_and_the_others_go_on():
    made = optadamw.sweep(train_step, adamw, GRID)
    members = trained(made, 3)
    stopped = made.stop(members, np.arange(6) % 2 == 1)
    before = jax.device_get(stopped)
    live = trained(made, 6)
    after = stopped
    for _ in range(3):
        after = made.step(after)
    for old, new, other in zip(
        *map(jax.tree.leaves, (before, after, live)), strict=True
    ):
        new, other = np.asarray(new), np.asarray(other)
        np.testing.assert_array_equal(new[1::2], old[1::2])
        if new.dtype != bool:
            np.testing.assert_array_equal(new[0::2], other[0::2])
    assert made.stop(after, np.zeros(6, bool)).live.tolist() == [True, False] * 3
    assert [row["live"] for row in made.records(after)] == [1.0, 0.0] * 3


def test_each_member_has_its_own_guard_and_statistics():
    def step(tx, params, state, scale):
        loss, grads = jax.value_and_grad(lambda p: jnp.sum(p**2) * scale)(params)
        params, state = tx.step(grads, state, params)
        return params, state, loss

    made = optadamw.sweep(
        step,
        lambda clip: adamw(0.1, clip_global_norm=clip, skip_nonfinite=True, stats=True),
        {"clip": [0.5, 1e9]},
    )
    # The second member starts where its gradient overflows for the middle batch.
    members = made.init(jnp.array([[1.0], [1e18]]), stacked=True)
    for scale in (1.0, 100.0, 1.0):
        members = made.step(members, jnp.float32(scale))
    small, large = made.records(members)
    assert (small["stats/skipped"], large["stats/skipped"]) == (0.0, 1.0)
    assert (small["stats/step"], large["stats/step"]) == (3.0, 2.0)
    assert small["stats/clipped_grad_norm"] == pytest.approx(0.5, rel=1e-5)
    assert large["stats/clipped_grad_norm"] == pytest.approx(1e9, rel=1e-3)


def test_seeds_by_parameters_of_their_own():
    points = optadamw.grid_points(learning_rate=[1e-2, 0.1], seed=[0, 1, 2])
    made = optadamw.sweep(
        train_step, lambda learning_rate, seed: adamw(learning_rate), points
    )
    keys = jax.vmap(jax.random.key)(points["seed"])
    shapes = {"a": (1, 8), "b": (8, 1)}
    params = jax.vmap(
        lambda key: {n: jax.random.normal(key, s) for n, s in shapes.items()}
    )(keys)
    members = made.step(made.init(params, stacked=True))
    assert len(set(members.loss[:3].tolist())) == 3
    np.testing.assert_array_equal(members.loss[:3], members.loss[3:])


def test_a_transformation_of_optax_around_it():
    made = optadamw.sweep(
        lambda tx, params, state: (params, tx.update(params, state, params)[1], 0.0),
        lambda rate: optax.chain(optax.clip(1.0), optax.sgd(rate)),
        {"rate": [1.0, 2.0]},
    )
    members = made.step(made.init(jnp.ones(2)))
    assert set(made.records(members)[0]) == {"member", "rate", "loss", "live"}


def test_the_types_of_members_do_not_change():
    made = optadamw.sweep(train_step, adamw, {"learning_rate": [0.1, 0.2]})
    first = made.init(jax.tree.map(lambda p: p.astype(jnp.bfloat16), initial()))
    before = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), first)
    second = made.step(first)
    third = made.step(second)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), third) == before
    assert made._programs.step._cache_size() == 1


def test_a_table_has_the_best_first_and_what_is_not_finite_last():
    made = optadamw.sweep(train_step, adamw, GRID)
    members = made.stop(trained(made, 5), np.arange(6) == 0)
    loss = members.loss.at[3].set(jnp.nan)
    members = members._replace(loss=loss)
    lines = made.table(members).splitlines()
    assert lines[0].split() == [
        "member",
        "learning_rate",
        "weight_decay",
        "loss",
        "step",
    ]
    order = [int(line.split()[0]) for line in lines[1:]]
    assert order[0] == made.best(members) and order[-1] == 3
    assert [line.endswith("stopped") for line in lines[1:]].count(True) == 1
    assert made.table(members, most=2).splitlines()[-1] == "and 4 more"
    with pytest.raises(ValueError, match="No member has a finite loss"):
        made.best(made.init(initial()))


def test_records_are_drawn_as_a_map(tmp_path):
    made = optadamw.sweep(train_step, adamw, GRID)
    path = optadamw.plotting.heatmap(
        made.records(trained(made, 2)),
        tmp_path / "sweep.png",
        x="learning_rate",
        y="weight_decay",
    )
    assert path.read_bytes().startswith(b"\x89PNG")


def test_points_at_random_are_in_their_ranges_and_the_same_for_a_seed():
    ranges = {"rate": (1e-4, 1.0, "log"), "decay": (0.0, 0.5, "linear")}
    points = optadamw.random_points(400, seed=3, **ranges)
    trees.assert_same_bits(points, optadamw.random_points(400, seed=3, **ranges))
    for name, (low, high, _) in ranges.items():
        assert low <= points[name].min() and points[name].max() <= high
    assert 0.35 < np.mean(points["rate"] < 1e-2) < 0.65
    assert 0.35 < np.mean(points["decay"] < 0.25) < 0.65


def test_members_are_divided_over_eight_devices():
    flags = "--xla_force_host_platform_device_count=8"
    lane.run(Path(__file__).with_name("eight_devices.py"), flags)


def build(tx_of=adamw, points=None, step=train_step, **more):
    return optadamw.sweep(step, tx_of, GRID if points is None else points, **more)


def stepping(step):
    made = build(step=step, points={"learning_rate": [0.1]})
    return made.step(made.init(initial()))


REFUSED = {
    "a number out of its range": (
        lambda: build(points={"learning_rate": [0.1, -1.0]}),
        ValueError,
        r"Member 1 \(learning_rate=-1.0\): `learning_rate` must be finite and >= 0",
    ),
    "a number out of its range in float32": (
        lambda: build(lambda b2: adamw(0.1, b2=b2), {"b2": [0.9, 1 - 1e-8]}),
        ValueError,
        r"Member 1 \(b2=0.99999999\): `b2` must be in \[0, 1\); got 1.0",
    ),
    "a switch": (
        lambda: build(points={"learning_rate": [0.1], "amsgrad": [True]}),
        TypeError,
        "`amsgrad` must be a list of numbers; got True .*one sweep for each",
    ),
    "a dtype": (
        lambda: build(points={"mu_dtype": ["bfloat16", "float32"]}),
        TypeError,
        "`mu_dtype` must be a list of numbers; got 'bfloat16' .*structure",
    ),
    "a structure chosen by an if": (
        lambda: build(
            lambda b: adamw(0.1, mu_dtype="bfloat16" if b else None), {"b": [0, 1]}
        ),
        TypeError,
        "`tx_of` needs the value of a hyperparameter.*one sweep for each",
    ),
    "a structure chosen by a comparison": (
        lambda: build(lambda b: adamw(0.1, amsgrad=b > 0), {"b": [0, 1]}),
        TypeError,
        "`tx_of` refuses an array, although it takes the number: `amsgrad`",
    ),
    "numbers of several lengths": (
        lambda: build(points={"learning_rate": [0.1], "weight_decay": [0.1, 0.2]}),
        ValueError,
        "got learning_rate: 1, weight_decay: 2. .*grid_points",
    ),
    "no points": (lambda: build(points={}), ValueError, "grid_points or random"),
    "the name of another field": (
        lambda: build(points={"loss": [0.1]}),
        ValueError,
        "`points` must be a mapping of names other than .*; got 'loss'",
    ),
    "points without a name": (
        lambda: build(points=[0.1, 0.2]),
        TypeError,
        "`points` must be a mapping of names",
    ),
    "one number": (
        lambda: build(points={"learning_rate": 0.1}),
        TypeError,
        "`learning_rate` must be a list of numbers; got 0.1",
    ),
    "no numbers": (
        lambda: build(points={"learning_rate": []}),
        ValueError,
        "a list of at least one number",
    ),
    "a name that tx_of does not take": (
        lambda: build(points={"learning_rate": [0.1], "rate": [0.1]}),
        TypeError,
        r"Member 0 \(learning_rate=0.1, rate=0.1\): .*unexpected keyword .*'rate'",
    ),
    "a transformation for a function": (
        lambda: build(optadamw.adamw(0.1)),
        TypeError,
        "`tx_of` must be a function",
    ),
    "a function of something else": (
        lambda: build(lambda learning_rate, weight_decay: 3),
        TypeError,
        "`tx_of` must be a function that returns a transformation; got 3",
    ),
    "members that devices do not divide": (
        lambda: build(points={"learning_rate": [0.1] * 3}, devices=jax.devices() * 2),
        ValueError,
        "got 2 devices for 3 members",
    ),
    "no device": (lambda: build(devices=[]), ValueError, "got 0 devices"),
    "parameters of another number of members": (
        lambda: build().init(initial(), stacked=True),
        ValueError,
        r"Leaf 'a': its shape \(1, 8\) has no leading axis .*6 members",
    ),
    "a step without a loss": (
        lambda: stepping(lambda tx, params, state: (params, state)),
        TypeError,
        r"(?s)`train_step` must be .* \(params, state, loss\).{,500}$",
    ),
    "state and params in another order": (
        lambda: stepping(lambda tx, params, state: (state, params, 0.0)),
        TypeError,
        "`train_step` must return `params` with the structure that it got",
    ),
    "another dtype": (
        lambda: stepping(
            lambda tx, params, state: (
                params | {"b": params["b"].astype(jnp.float16)},
                state,
                0.0,
            )
        ),
        TypeError,
        r"Leaf 'b': .*got float32\[8, 1\], returned float16\[8, 1\]",
    ),
    "a loss of many numbers": (
        lambda: stepping(lambda tx, params, state: (params, state, jnp.ones(3))),
        TypeError,
        r"the loss as a scalar; got float32\[3\]",
    ),
    "a stop by numbers": (
        lambda: build().stop(build().init(initial()), [0, 1, 2]),
        TypeError,
        "`where` must be an array of bools",
    ),
    "a stop of others": (
        lambda: build().stop(build().init(initial()), np.ones(5, bool)),
        ValueError,
        r"one bool for each of the 6 members; got the shape \(5,\)",
    ),
    "a member that is not there": (
        lambda: build().member(build().init(initial()), 6),
        ValueError,
        "`index` must be from 0 to 5; got 6",
    ),
    "a member by name": (
        lambda: build().member(build().init(initial()), "best"),
        TypeError,
        "`index` must be a whole number; got 'best' of type str",
    ),
    "a range upside down": (
        lambda: optadamw.random_points(3, rate=(1.0, 0.1, "log")),
        ValueError,
        r"`rate` must be \(low, high, scale\)",
    ),
    "a logarithm of 0": (
        lambda: optadamw.random_points(3, rate=(0.0, 0.1, "log")),
        ValueError,
        'for "log" low > 0',
    ),
    "a scale that is not known": (
        lambda: optadamw.random_points(3, rate=(0.1, 0.2, "cubic")),
        ValueError,
        "`rate` must be",
    ),
    "a range that is none": (
        lambda: optadamw.random_points(3, rate=[0.1, 0.2]),
        TypeError,
        "`rate` must be",
    ),
    "no point": (
        lambda: optadamw.random_points(0, a=(0, 1, "linear")),
        ValueError,
        "at least 1",
    ),
    "half a point": (
        lambda: optadamw.random_points(0.5, a=(0, 1, "linear")),
        TypeError,
        "whole",
    ),
    "two seeds": (
        lambda: optadamw.random_points(3, seed=(1, 2), a=(0, 1, "linear")),
        TypeError,
        r"`seed` must be a whole number of at least 0; got \(1, 2\) of type tuple",
    ),
    "a negative seed": (
        lambda: optadamw.random_points(3, seed=-1, a=(0, 1, "linear")),
        ValueError,
        "`seed` must be a whole number of at least 0; got -1",
    ),
    "a grid of two axes": (
        lambda: optadamw.grid_points(a=np.ones((2, 3))),
        ValueError,
        r"(?s)`a` must be an array with one axis; its shape is \(2, 3\).* ravel",
    ),
    "no range": (lambda: optadamw.random_points(3), ValueError, "at least one name"),
    "an empty grid": (lambda: optadamw.grid_points(), ValueError, "at least one name"),
}


@pytest.mark.parametrize(("call", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_swept_is_said(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_buffers_in_the_host_and_large_whole_numbers_are_refused():
    def tx_of(learning_rate):
        return optadamw.adamw(learning_rate, offload="mu")

    points = optadamw.grid_points(learning_rate=[0.1, 0.2])
    with pytest.raises(ValueError, match="with_offload"):
        optadamw.sweep(train_step, tx_of, points)
    with pytest.raises(ValueError, match="whole ones within int32"):
        optadamw.grid_points(seed=[0, 2**32 + 5])
