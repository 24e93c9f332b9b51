"""A step without the selection of a zero denominator, if epsilon makes it idle."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw import custom
from optadamw.base.floors import floor_form
from tests.support import trees

PARAMS = jnp.linspace(-1.0, 1.0, 64)
GRADS = jnp.asarray(
    [0.0, -0.0, 1e-45, 1e-30, 1e-19, -3e-18, 1.0, -1e19, 3e38, np.inf, -np.inf, np.nan]
    + [2.0**k for k in range(-26, 26)],
    jnp.float32,
)


@pytest.mark.parametrize(
    ("eps", "form"),
    [
        *[(1e-8, "positive"), (1e-15, "positive"), (2.0**-63, "positive")],
        *[(1e-20, "any"), (0.0, "any"), (jnp.float32(1e-8), "any")],
        *[(lambda step: 1e-8, "any"), (optadamw.adjustable(1e-8), "any")],
    ],
)
def test_the_form_of_an_epsilon(eps, form):
    known = custom.hyperparameter("eps", eps, custom.NON_NEGATIVE)
    assert floor_form(known) == form
    assert floor_form(floor_form(known)) == form  # that of a skeleton


def steps(eps, **options):
    tx = optadamw.adamw(0.1, eps=eps, kernel="xla", **options)
    step = jax.jit(tx.step)
    params, state = PARAMS, tx.init(PARAMS)
    for grads in (GRADS, GRADS[::-1], GRADS):
        params, state = step(grads, state, params)
    return params, state


@pytest.mark.parametrize(
    "options", [{}, {"amsgrad": True}, {"eps_mode": "hat"}, {"clip_update_rms": 1.0}]
)
@pytest.mark.parametrize("eps", [1e-8, 2.0**-63])
def test_steps_with_and_without_the_selection_have_equal_bits(eps, options):
    """An array as epsilon keeps the selection."""
    trees.assert_same_bits(steps(eps, **options), steps(jnp.float32(eps), **options))


@pytest.mark.parametrize(
    ("eps", "most"), [(1e-19, 1.0), (1.09e-19, 32.0), (1e-18, 3.5), (3.5e-18, 1.0)]
)
def test_a_flushed_second_moment_bounds_the_step(eps, most):
    """In units of the rate, as docs/ideas/numerics.md says."""
    grads = jnp.geomspace(1e-20, 1e-10, 256)
    tx = optadamw.adamw(1.0, eps=eps, weight_decay=0.0)
    params, _ = jax.jit(tx.step)(grads, tx.init(grads), jnp.zeros(256))
    assert 0.9 * most <= float(jnp.abs(params).max()) <= most * (1 + 1e-5)


def selections(eps):
    tx = optadamw.adamw(0.1, eps=eps, kernel="xla")
    text = str(jax.make_jaxpr(tx.step)(GRADS, tx.init(PARAMS), PARAMS))
    return text.count("f32[64] = select_n")


def test_a_positive_epsilon_spares_the_selection():
    assert selections(1e-8) == selections(0.0) - 1 == selections(1e-20) - 1


@dataclass(frozen=True)
class Emptied(custom.Rule):
    """Sets the denominator to 0, after Adam has made one that is not."""

    stage = custom.Stage.DIRECTION
    verb = "emptied"

    def apply(self, leaf, scalars):
        del scalars
        return leaf._replace(denominator=leaf.denominator * 0.0)


def test_a_denominator_that_another_rule_made_may_be_zero():
    tx = optadamw.chain(
        optadamw.scale_by_adam(),
        custom.atom(Emptied()),
        optadamw.scale_by_learning_rate(0.1),
    )
    params, _ = tx.step(PARAMS, tx.init(PARAMS), PARAMS)
    trees.assert_same_bits(params, PARAMS)
