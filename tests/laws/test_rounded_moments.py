"""The law of bits where moments are rounded in the state, in 8 or 16 bits.

The moment for the parameter is formed apart from the one for the state, and XLA
contracts other products there, depending on the program. The state has the same bits in
every program; a parameter may differ by a unit in the last place, its own or two of the
learning rate.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from tests.support import trees
from tests.support.trajectories import scan_body, stack

STEPS, RATE = 3, 0.05
KINDS = {"kernel": (jnp.float32, (16, 512))}
EIGHT = optadamw.blockwise(min_size=0)
SIXTEEN = optadamw.stochastic("bfloat16")
FORMS = {
    "8 bits": {"mu_dtype": EIGHT, "nu_dtype": EIGHT},
    "16 bits": {"mu_dtype": SIXTEEN, "nu_dtype": SIXTEEN},
}

EQUAL = [("8 bits", "scan"), ("16 bits", "vmap"), ("16 bits", "scan")]
"""The forms and programs in which parameters too have the bits of single steps."""


def vmapped(tx: Any, run: Any, grads: Any) -> Any:
    """One step from the state before each of `grads`, all in one program."""
    step = jax.jit(jax.vmap(tx.step))
    params, states = zip(*run[:-1], strict=True)
    return tuple(step(stack(grads), stack(states), stack(params)))


def scanned(tx: Any, run: Any, grads: Any) -> Any:
    return jax.jit(functools.partial(jax.lax.scan, scan_body(tx)))(
        run[0], stack(grads)
    )[1]


def unrolled(tx: Any, run: Any, grads: Any) -> Any:
    @jax.jit
    def steps(params: Any, state: Any) -> Any:
        after = []
        for g in grads:
            params, state = tx.step(g, state, params)
            after.append((params, state))
        return stack(after)

    return steps(*run[0])


PROGRAMS = {"vmap": vmapped, "scan": scanned, "unrolled": unrolled}


@functools.cache
def single_steps(form: str) -> Any:
    tx, params = optadamw.adamw(RATE, **FORMS[form]), trees.normal(KINDS, 0)
    grads = [trees.normal(KINDS, 1 + i) for i in range(STEPS)]
    step, run = jax.jit(tx.step), [(params, tx.init(params))]
    for g in grads:
        run.append(tuple(step(g, run[-1][1], run[-1][0])))
    return tx, run, grads


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("form", FORMS)
def test_moments_have_the_same_bits_and_parameters_nearly(form, program):
    tx, run, grads = single_steps(form)
    params, states = PROGRAMS[program](tx, run, grads)
    expected, wanted = stack(run[1:])
    trees.assert_same_bits(states, wanted)
    if (form, program) in EQUAL:
        trees.assert_same_bits(params, expected)
        return
    found, after = np.asarray(params["kernel"]), np.asarray(expected["kernel"])
    before = np.asarray(stack([p for p, _ in run[:-1]])["kernel"])
    ulp = np.spacing(np.maximum(np.abs(before), np.abs(after)))
    apart = np.abs(found - after)
    # A difference stays in the parameter, so that there can be one for each step.
    assert np.all(apart <= STEPS * (ulp + 2 * RATE * 2.0**-23))
    assert np.mean(apart > 0) < 1 / 300


def test_a_parameter_in_16_bits_has_the_bits_of_single_steps_nearly_everywhere():
    """A unit in the last place of float32 seldom decides how 16 bits are rounded."""
    tx = optadamw.adamw(RATE, **FORMS["8 bits"], commit="stochastic")
    kinds = {"kernel": (jnp.bfloat16, (16, 512))}
    params, grads = (trees.normal(kinds, i) for i in range(2))
    state = tx.init(params)
    params, state = jax.jit(tx.step)(grads, state, params)
    alone, one = jax.jit(tx.step)(grads, state, params)
    together, many = jax.jit(jax.vmap(tx.step))(
        *(stack([x, x]) for x in (grads, state, params))
    )
    trees.assert_same_bits(many, stack([one, one]))
    apart = np.asarray(together["kernel"][1] != alone["kernel"])
    assert np.mean(apart) < 1e-3
