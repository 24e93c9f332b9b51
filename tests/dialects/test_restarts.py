"""The paper's warm restarts, and its normalized weight decay."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optadamw.dialects import paper
from tests.dialects.training import halving


def rounded(steps, factor, i):
    """The length of a period; 2**62 for a longer one, in which all later steps are."""
    return round(min(steps * factor**i, 2.0**62))


def exact(step, steps, factor, low=0.0, high=1.0, ahead=False):
    """Multiplier and period in float64, walking from restart to restart."""
    start, i = 0, 0
    while True:
        length = rounded(steps, factor, i)
        if step < start + length:
            break
        start, i = start + length, i + 1
        if factor == 1:
            start = step - step % steps
    # semantics.md 9: the count ahead is undone at each restart.
    fraction = (step - start + (ahead and start == 0)) / length
    return low + (high - low) * 0.5 * (1 + math.cos(math.pi * fraction)), length


RESTARTS = [
    (3, 1e308), (1, 1.0), (1, 2.0), (7, 1.0), (10, 2.0), (5, 1.5), (100, 1.1), (3, 3.0),
    (1000, 1.25), (2**20, 1.0), (2**31 - 1, 1.0), (2**30, 2.0), (997, 7.0),
    (3, 1e15), (3, 1e20),
]  # fmt: skip


def around(steps, factor):
    """Steps at and beside restarts, and the last that an int32 counts."""
    edges, length, start = {0, 1, 2}, 0, 0
    for i in itertools.count():
        length = rounded(steps, factor, i)
        start += length
        if start >= 2**31 or i > 40:
            break
        edges |= {start - 1, start, start + 1, start + length // 2}
    top = 2**31 - 1
    edges |= {top, top - 1, top // 2, top // steps * steps, top // steps * steps - 1}
    return np.array(sorted(e for e in edges if 0 <= e <= top), np.int32)


@pytest.mark.parametrize(("steps", "factor"), RESTARTS)
@pytest.mark.parametrize("ahead", [False, True])
def test_warm_restarts_are_the_formula(steps, factor, ahead):
    eta = paper.cosine_warm_restarts(
        steps, factor=factor, low=0.25, high=2.0, ahead=ahead
    )
    decay = paper.normalized_weight_decay(0.05, restarts=eta)
    where = around(steps, factor)
    found = jax.jit(jax.vmap(lambda step: (eta(step), decay(step))))(where)
    for i, step in enumerate(where):
        expected, length = exact(int(step), steps, factor, 0.25, 2.0, ahead)
        assert found[0][i] == pytest.approx(expected, abs=2e-6), step
        assert found[1][i] == pytest.approx(0.05 / math.sqrt(length), rel=1e-6), step
        eager = eta(int(step)) if step % 3 else eta(jnp.int32(step))
        assert float(eager) == pytest.approx(expected, abs=2e-6), step


@pytest.mark.parametrize("factor", [1.001, 1.0001, 1 + 1e-12])
def test_restarts_go_on_after_many_periods(factor):
    """The multiplier after 4,096 periods was a cosine without restarts."""
    lengths = np.array([round(10 * factor**i) for i in range(20_000)], np.int64)
    starts = np.cumsum(lengths) - lengths
    some = [i for i in (1, 4095, 4096, 4097, 12_280, 19_998) if starts[i] < 2**30]
    eta = paper.cosine_warm_restarts(10, factor=factor)
    where = np.stack([starts[some], starts[some] + lengths[some] - 1], 1)
    found, periods = jax.vmap(lambda step: (eta(step), eta.period(step)))(where.ravel())
    last = 0.5 * (1 + np.cos(np.pi * (1 - 1 / lengths[some])))
    expected = np.stack([np.ones(len(some)), last], 1)
    np.testing.assert_allclose(found, expected.ravel(), atol=1e-6)
    np.testing.assert_array_equal(periods, np.repeat(lengths[some], 2))


def test_restarts_start_where_the_period_before_has_ended():
    """No two roundings of the same number: a period is as long as its restarts say."""
    wrong = []
    for steps in (3, 10, 50):
        for factor in (k / 10 for k in range(11, 40)):
            eta = paper.cosine_warm_restarts(steps, factor=factor)
            start = 0
            for _ in range(5):
                length = round(float(eta.period(start)))
                end = float(eta.period(start + length - 1)), float(eta(start + length))
                if end != (length, 1.0):
                    wrong.append((steps, factor, start, length))
                    break
                start += length
    assert not wrong


def test_the_restarts_of_the_authors_code():
    """semantics.md 9: at a restart T_cur is 0 for that same batch, without the count.

    So the first period has 1/n, ..., n/n and the later ones 0, 1/n, ..., (n - 1)/n.
    """
    eta = paper.cosine_warm_restarts(4, factor=2.0, ahead=True)
    fractions = [1 / 4, 2 / 4, 3 / 4, 1.0, *(i / 8 for i in range(8)), 0.0, 1 / 16]
    expected = [0.5 * (1 + math.cos(math.pi * f)) for f in fractions]
    np.testing.assert_allclose([float(eta(i)) for i in range(14)], expected, atol=1e-6)


def test_normalized_decay_is_that_of_the_appendix():
    batch, points, epochs = 128, 50_000, 100
    steps = points * epochs // batch
    found = paper.normalized_weight_decay(0.05, steps=steps)
    assert found == pytest.approx(0.05 * math.sqrt(batch / (points * epochs)), rel=1e-5)


def test_the_multiplier_of_the_paper_is_on_both_terms():
    eta = paper.cosine_warm_restarts(4, factor=2.0)
    tx = paper.adamw(0.5, 0.9, 0.999, 1e-8, 0.25, eta)
    params, state, x = {"w": jnp.array([8.0])}, None, 8.0
    state, m, v = tx.init(params), 0.0, 0.0
    for i in range(14):
        g = math.cos(i)
        params, state = jax.jit(tx.step)({"w": jnp.array([g])}, state, params)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        corrected = m / (1 - 0.9 ** (i + 1)), v / (1 - 0.999 ** (i + 1))
        step = 0.5 * corrected[0] / (math.sqrt(corrected[1]) + 1e-8)
        x -= exact(i, 4, 2.0)[0] * (step + 0.25 * x)
        assert float(params["w"][0]) == pytest.approx(x, rel=2e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"steps": 0}, ValueError),
        ({"steps": -3}, ValueError),
        ({"steps": 2.5}, ValueError),
        ({"steps": 2, "high": 1e39}, ValueError),
        ({"steps": True}, TypeError),
        ({"steps": 2**31}, ValueError),
        ({"steps": 5, "factor": 0.5}, ValueError),
        ({"steps": 5, "factor": math.inf}, ValueError),
        ({"steps": 5, "factor": math.nan}, ValueError),
        ({"steps": 5, "factor": "2"}, TypeError),
        ({"steps": 5, "low": -1.0}, ValueError),
        ({"steps": 5, "low": 2.0}, ValueError),
        ({"steps": 5, "high": math.inf}, ValueError),
        ({"steps": 5, "ahead": 1}, TypeError),
    ],
)
def test_bad_restarts(options, error):
    with pytest.raises(error, match="must be"):
        paper.cosine_warm_restarts(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"norm": -1.0, "steps": 5}, {"norm": math.nan, "steps": 5}, {"norm": 0.05},
        {"norm": 0.05, "steps": 5, "restarts": paper.cosine_warm_restarts(5)},
        {"norm": 0.05, "steps": 0}, {"norm": 0.05, "steps": 2.5},
        {"norm": 0.05, "restarts": halving}, {"norm": "a", "steps": 5},
    ],
)  # fmt: skip
def test_bad_normalized_decay(options):
    with pytest.raises((TypeError, ValueError)):
        paper.normalized_weight_decay(**options)
