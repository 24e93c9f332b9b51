"""Equal transformations share compiled programs, which are freed with the last one."""

import copy
import gc
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import optadamw
from optadamw.transforms import programs as module
from optadamw.transforms.programs import programs_of

PARAMS = {"w": jnp.ones(3)}
MANY = 24
KEPT = 16


def rates(count: int) -> list[float]:
    return [1.7e-3 * (1 + i / 1024) for i in range(count)]


@pytest.fixture
def traces(monkeypatch) -> list[Any]:
    """The compositions whose step is traced."""
    found: list[Any] = []
    advance = module.advance

    def counted(composition: Any, *args: Any) -> Any:
        found.append(composition)
        return advance(composition, *args)

    monkeypatch.setattr(module, "advance", counted)
    return found


def jit_of_step(tx: Any) -> Any:
    return jax.jit(tx.step)(PARAMS, tx.init(PARAMS), PARAMS)


def jit_step(tx: Any) -> Any:
    fresh = jax.tree.map(jnp.copy, PARAMS)
    return tx.jit_step(PARAMS, tx.init(PARAMS), fresh)


@pytest.mark.parametrize("run", [jit_of_step, jit_step])
def test_a_sweep_keeps_the_programs_of_its_last_transformations(run):
    gc.collect()
    before = len(module._IN_USE)
    for rate in rates(MANY):
        run(optadamw.adamw(rate))
    gc.collect()
    assert len(module._IN_USE) <= before + KEPT + 1


@pytest.mark.parametrize("run", [jit_of_step, jit_step])
def test_transformations_in_use_are_not_compiled_again(run, traces):
    kept = [optadamw.adamw(rate) for rate in rates(KEPT + 4)]
    for tx in kept:
        run(tx)
    assert len(traces) == len(kept)
    for tx, rate in zip(kept, rates(KEPT + 4), strict=True):
        run(tx)
        run(optadamw.adamw(rate))  # an equal one, made again
    assert len(traces) == len(kept)


def test_a_transformation_that_is_made_again_is_not_compiled_again(traces):
    for _ in range(3):
        jit_step(optadamw.adamw(0.25))
        jit_of_step(optadamw.adamw(0.25))
    assert len(traces) == 2


@pytest.mark.parametrize(
    "again", [lambda x: pickle.loads(pickle.dumps(x)), copy.copy, copy.deepcopy]
)
def test_a_copy_shares_the_programs(again):
    tx = optadamw.adamw(0.125)
    made = again(tx)
    assert made == tx and repr(made) == repr(tx)
    composition = made.recipe.composition
    assert made.recipe.programs is programs_of(composition) is tx.recipe.programs
    assert again(tx.step) == tx.step and again(tx.jit_step) == tx.jit_step


def test_a_rate_that_is_traced_has_programs_of_its_own():
    @jax.jit
    def after(rate: Any, params: Any) -> Any:
        tx = optadamw.adamw(rate)
        return tx.jit_step(PARAMS, tx.init(PARAMS), params)[0]

    before = len(module._IN_USE)
    for rate in (0.5, 0.25):
        fresh = jax.tree.map(jnp.copy, PARAMS)
        wanted = optadamw.adamw(rate).jit_step(
            PARAMS, optadamw.adamw(rate).init(PARAMS), fresh
        )
        found = after(rate, PARAMS)
        assert jnp.allclose(found["w"], wanted[0]["w"], rtol=1e-6)
    gc.collect()
    assert len(module._IN_USE) <= before + 2
