"""The range test suggests a rate that trains, and says so where it cannot."""

import itertools
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from tests.support import trees
from tests.tuning.training import X, Y, initial, train_step


def tried(step=train_step, tx_of=optadamw.adamw, batches=((X, Y),), **more):
    repeated = itertools.cycle(batches)
    return optadamw.lr_range_test(step, tx_of, initial(), repeated, **more)


def test_the_rate_that_it_suggests_is_among_the_best_of_a_sweep():
    found = tried()
    rates = found.suggestion * 10.0 ** np.linspace(-2, 2, 9)
    made = optadamw.sweep(
        train_step,
        lambda rate: optadamw.adamw(rate),
        {"rate": rates},
    )
    members = made.init(initial())
    for _ in range(60):
        members = made.step(members, X, Y)
    assert members.loss[4] <= 2 * members.loss.min()
    assert members.loss[4] <= 0.5 * members.loss[0]
    assert found.reason == "" and found.diverged is not None
    assert found.suggestion < found.diverged
    assert found.rates[0] < found.steepest <= 10 * found.suggestion * (1 + 1e-9)
    assert f"Suggestion: {found.suggestion:.3g}" in str(found)


def test_the_steps_are_those_of_a_training_with_these_rates():
    found = tried(low=1e-5, high=1e-2, steps=12)
    np.testing.assert_allclose(found.rates, np.geomspace(1e-5, 1e-2, 12))
    params = initial()
    state = optadamw.adamw(0.0).init(params)
    losses = []
    for rate in [*found.rates, 0.0]:
        step = jax.jit(lambda p, s, r: train_step(optadamw.adamw(r), p, s))
        params, state, loss = step(params, state, jnp.float32(rate))
        losses.append(float(loss))
    np.testing.assert_allclose([found.start, *found.losses], losses, rtol=1e-6)


def test_it_is_compiled_once_and_changes_nothing_of_the_caller():
    traces = 0

    def counted(*args):
        nonlocal traces
        traces += 1
        return train_step(*args)

    params = initial()
    before = jax.tree.map(np.array, params)
    optadamw.lr_range_test(
        counted, optadamw.adamw, params, itertools.repeat((X, Y)), steps=20
    )
    assert traces == 1
    trees.assert_same_bits(params, before)


def test_batches_end_and_are_spread_only_if_they_are_tuples():
    def step(tx, params, state, batch):
        return train_step(tx, params, state, batch["x"], batch["y"])

    some = [{"x": X, "y": Y}] * 15
    found = optadamw.lr_range_test(
        step, optadamw.adamw, initial(), some, high=1e-3, steps=50
    )
    assert len(found.rates) == len(found.losses) == len(found.smoothed) == 14
    with pytest.raises(
        ValueError, match=r"at least 11 items; it ended after 10\. .*repeat"
    ):
        optadamw.lr_range_test(step, optadamw.adamw, initial(), iter(some[:10]))


ONE_BATCH = {
    "a tuple": ((X, Y), ValueError, r"at least 11 items; it has 2\. .*repeat\(batch\)"),
    "an array": (X, TypeError, r"(?s)`batches` must be an iterable.*repeat"),
    "a mapping": ({"x": X, "y": Y}, TypeError, r"(?s)`batches` must be .*repeat"),
    "no iterable": (11, TypeError, r"`batches` must be .*; got 11"),
}


@pytest.mark.parametrize(("given", "error", "words"), ONE_BATCH.values(), ids=ONE_BATCH)
def test_one_batch_in_the_place_of_many_is_refused(given, error, words):
    """Before the step is called, which would fail with a part of a batch."""
    with pytest.raises(error, match=words):
        optadamw.lr_range_test(train_step, optadamw.adamw, initial(), given)


def test_there_is_no_suggestion_where_the_loss_does_not_fall():
    rising = tried(tx_of=lambda rate: optadamw.adamw(rate, maximize=True))
    assert rising.suggestion is rising.steepest is None
    assert "never fell by more than its noise" in str(rising)


def test_batches_that_end_before_the_loss_falls_are_named():
    found = optadamw.lr_range_test(
        *(train_step, optadamw.adamw, initial(), [(X, Y)] * 12),
        **{"low": 1e-12, "steps": 100},
    )
    assert found.suggestion is None
    assert re.search(
        r"`batches` ended after 12 items, .* before the loss fell.*Give 101", str(found)
    )


def test_there_is_no_suggestion_where_the_loss_still_falls():
    found = tried(low=1e-6, high=1e-3, steps=30)
    assert found.suggestion is None and found.diverged is None
    assert "still fell at the highest rate, 0.001. Raise `high`." in str(found)


@pytest.mark.parametrize("at", [0, 2])
def test_a_loss_that_is_not_finite_at_once_is_said(at):
    bad = [(X, Y)] * at + [(X * jnp.nan, Y)] * 20
    found = optadamw.lr_range_test(train_step, optadamw.adamw, initial(), bad)
    assert found.suggestion is None and len(found.losses) <= 2
    assert "not finite at the lowest rates" in str(found)


def test_a_loss_below_zero_is_as_good():
    def below(*args):
        params, state, loss = train_step(*args)
        return params, state, loss - 10

    found, wanted = tried(below), tried()
    assert found.suggestion is not None
    assert 0.1 < found.suggestion / wanted.suggestion < 10


REFUSED = {
    "low": ({"low": 0.0}, ValueError, "`low` must be finite and > 0; got 0.0"),
    "high": ({"high": 1e-8}, ValueError, "`high` must be .* > `low`, which is 1e-07"),
    "few": ({"steps": 9}, ValueError, "`steps` must be at least 10; got 9"),
    "half": ({"steps": 20.5}, TypeError, "`steps` must be a whole number"),
    "all": ({"smoothing": 1.0}, ValueError, r"`smoothing` must be in \[0, 1\)"),
    "text": ({"high": "1"}, TypeError, "`high` must be a number"),
    "tx": (
        {"tx_of": optadamw.adamw(1e-3)},
        TypeError,
        "`tx_of` must be a function; got adamw",
    ),
    "if": (
        {"tx_of": lambda r: optadamw.adamw(r, amsgrad=bool(r > 1))},
        TypeError,
        "`tx_of` needs the value of a hyperparameter",
    ),
    "unused": (
        {"tx_of": lambda r: optadamw.adamw(1e-3)},
        ValueError,
        "`tx_of` makes the same transformation for every rate",
    ),
    "step": (
        {"step": lambda tx, p, s, *b: (p, s)},
        TypeError,
        r"returns \(params, state, loss\)",
    ),
}


@pytest.mark.parametrize(("options", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_tried_is_said(options, error, words):
    with pytest.raises(error, match=words):
        tried(**options)


def test_the_steepest_fall_is_not_the_noise_of_the_first_losses():
    rng = np.random.default_rng(1)
    batches = (1 + 0.5 * rng.standard_normal(8).astype("f4") for _ in range(101))

    def noisy(tx, params, state, x):
        loss, grads = jax.value_and_grad(lambda p: jnp.mean((p - x) ** 2))(params)
        params, state = tx.step(grads, state, params)
        return params, state, loss

    found = optadamw.lr_range_test(noisy, optadamw.adamw, jnp.zeros(8), batches)
    assert found.steepest is None or found.steepest > 1e-5


def test_a_rate_in_the_state_is_refused():
    def tx_of(rate):
        return optax.inject_hyperparams(optax.adamw)(learning_rate=rate)

    with pytest.raises(ValueError, match="keeps the rate in its state"):
        optadamw.lr_range_test(train_step, tx_of, initial(), itertools.repeat((X, Y)))


def test_batches_that_end_and_a_first_loss_of_nan_are_told(tmp_path):
    batches = itertools.repeat((X, Y), 60)
    found = optadamw.lr_range_test(train_step, optadamw.adamw, initial(), batches)
    assert "`batches` ended after 60 items" in found.reason or found.suggestion

    def broken(tx, params, state, *batch):
        return params, state, jnp.float32(jnp.nan)

    batches = itertools.repeat((X, Y))
    found = optadamw.lr_range_test(broken, optadamw.adamw, initial(), batches)
    assert found.diverged is None and len(found.rates) == len(found.losses) == 0
    assert "No rate was tried" in str(found)
    with pytest.raises(ValueError, match="nothing to draw"):
        optadamw.plotting.range_test(found, tmp_path / "x.png")


def test_each_loss_is_smoothed_once():
    """All losses anew in each of 400 steps are 160,000 lines of Python."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        count += event == "line"
        return trace if "tuning" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        found = tried(high=1e-3, steps=400)
    finally:
        sys.settrace(before)
    assert count < 20_000
    mean, smoothed = 0.0, []
    for index, loss in enumerate([found.start, *found.losses]):
        mean = 0.9 * mean + (1 - 0.9) * loss
        smoothed.append(mean / (1 - 0.9 ** (index + 1)))
    np.testing.assert_array_equal(found.smoothed, smoothed[1:])


def test_one_state_at_a_time_is_held_before_the_first_step():
    params, held = jnp.zeros((64, 65)), []

    def tx_of(rate):
        tx = optadamw.adamw(rate)

        def init(params):
            held.append(sum(x.shape == params.shape for x in jax.live_arrays()))
            return tx.init(params)

        return optax.GradientTransformation(init, tx.update)

    def step(tx, params, state):
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state, jnp.sum(params)

    found = optadamw.lr_range_test(step, tx_of, params, [()] * 11, steps=10)
    assert len(found.losses) == 10
    # The parameters of the caller, and before the last state their copy.
    assert [number - held[0] for number in held] == [0, 0, 1]
