"""The order in which wrappers are nested does not matter: the same value comes out."""

import math
from typing import Any

import jax.numpy as jnp
import pytest

from tests.control.test_calls import ROWS, setup_of
from tests.support import control_cases
from tests.support.compilations import Compilations

MANY = max(
    (setup_of(row) for row in ROWS),
    key=lambda setup: len(control_cases.wrappers_of(setup.control)),
)


@pytest.mark.parametrize("row", ROWS, ids=["-".join(row.values()) for row in ROWS])
def test_every_nesting_is_the_same_transformation(row):
    setup = setup_of(row)
    made = setup.make()
    count = math.factorial(len(control_cases.wrappers_of(setup.control)))
    for order in range(count):
        nested = setup.nested(order)
        assert nested == made and hash(nested) == hash(made)


def test_four_parts_have_24_nestings_of_one_program():
    assert len(control_cases.wrappers_of(MANY.control)) == 4
    grads = {name: jnp.asarray(p) for name, p in MANY.params().items()}
    extra = {"weight": jnp.float32(1), "loss": jnp.float32(1)}

    def step(tx: Any, state: Any) -> Any:
        params = {name: jnp.array(g, copy=True) for name, g in grads.items()}
        return tx.jit_step(grads, state, params, **extra)[1]

    tx = MANY.make()
    state = step(tx, tx.init(grads))
    with Compilations() as compilations:
        for order in range(24):
            state = step(MANY.nested(order), state)
    assert compilations.count == 0


def test_different_settings_are_different_transformations():
    made = [setup_of(row).make() for row in ROWS]
    assert len(set(made)) == len({_setting(row) for row in ROWS}) < len(ROWS)


def _setting(row: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Without accumulation there is no micro-step for which guards could differ."""
    is_alone = row["accumulate"] == "off" and row["guard"] != "off"
    return tuple((row | {"guard": "any"} if is_alone else row).items())
