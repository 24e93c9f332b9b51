"""Every row in JAX's other modes: strict, checked, guarded, wide, without jit."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optadamw
from tests.support import lane, trajectories, trees
from tests.support.over import over
from tests.support.transformations import EVERYTHING, NUMBERS, ROWS, WIDE, Row

each_row = over(ROWS)
everything = over(EVERYTHING)


def _kernel(*numbers: float) -> Any:
    return {"kernel": jnp.asarray(numbers, jnp.float32)}


# --- Modes of tracing ----------------------------------------------------------------

PROMOTION = {
    "strict dtypes": partial(jax.numpy_dtype_promotion, "strict"),
    "strict ranks": partial(jax.numpy_rank_promotion, "raise"),
}
each_promotion = pytest.mark.parametrize("mode", PROMOTION.values(), ids=PROMOTION)


@each_row
@each_promotion
def test_every_dtype_can_be_traced(row, mode):
    """C7."""
    params = jax.eval_shape(lambda: trees.normal(trees.MIXED, seed=0))
    with mode():
        _trace(row.make(), params)


GUARDED = [r for r in ROWS if "spikes" in r.name]


@over([*EVERYTHING, *GUARDED])
def test_strict_dtypes_in_64_bits(row):
    """A range is int64 there, and the counters of a state are int32."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        _trace(row.make(), {"kernel": jax.ShapeDtypeStruct((2,), jnp.float32)})


@each_row
def test_no_invariant_of_jax_is_broken(row):
    """C8."""
    with jax.enable_checks(True):
        _trace(row.make(), {"kernel": jax.ShapeDtypeStruct((2,), jnp.bfloat16)})


LEAKS = [r for r in EVERYTHING if r.is_elementwise]
LEAKS += [r for r in ROWS if r.name == "adamw-clip_global_norm"]


@over(LEAKS)
def test_no_tracer_leaks(row):
    """C8. Two rows, as looking for leaks takes jax 0.10 seconds for each step."""
    tx, params = row.make(), {"kernel": jax.ShapeDtypeStruct((2,), jnp.float32)}
    state = tx.init(params)
    with jax.checking_leaks():
        jax.eval_shape(tx.step, params, state, params)


def _trace(tx: Any, params: Any) -> None:
    state = jax.eval_shape(tx.init, params)
    after = jax.eval_shape(tx.step, params, state, params)
    trees.assert_same_types(tuple(after), (params, state))
    jax.eval_shape(tx.update, params, state, params)


@everything
@each_promotion
def test_it_runs_as_elsewhere(row, mode):
    params, tx = trees.normal(trees.FLOATS, seed=0), row.make()
    expected = tx.step(params, tx.init(params), params)
    with mode():
        actual = tx.step(params, tx.init(params), params)
    trees.assert_same_bits(actual, expected)


def test_strict_promotion_is_strict_and_leaks_are_noticed():
    with jax.numpy_dtype_promotion("strict"), pytest.raises(Exception, match="strict"):
        jnp.ones(2, jnp.bfloat16) + jnp.ones(2, jnp.float32)
    with jax.numpy_rank_promotion("raise"), pytest.raises(ValueError, match="rank"):
        jnp.ones((2, 2)) + jnp.ones(2)


# --- Modes of running ----------------------------------------------------------------

RUNNING = {
    "debug_nans": (partial(jax.debug_nans, True), 1e30),
    # A sum of squares that overflows is taken again in other units, but it was inf.
    "debug_infs": (partial(jax.debug_infs, True), 1e18),
    "disable_jit": (jax.disable_jit, 1e30),
}


@over(WIDE)
@pytest.mark.parametrize(("mode", "large"), RUNNING.values(), ids=RUNNING)
def test_finite_steps_raise_nothing(row, mode, large):
    """C8: with zero gradients too, where Adam's direction is 0 / 0."""
    tx = row.make()
    params, grads = _kernel(0.5, -1.0, 2.0, 0.0), _kernel(0.1, 1e-30, large, 0.0)
    with mode():
        carry = params, tx.init(params)
        for g in (grads, _kernel(0.0, 0.0, 0.0, 0.0), grads):
            updates, _ = tx.update(g, carry[1], carry[0])
            carry = tx.step(g, carry[1], carry[0])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((carry, updates)))


def test_a_nan_is_noticed():
    tx = optadamw.adamw(0.1)
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        tx.step(_kernel(jnp.nan), tx.init(_kernel(1.0)), _kernel(1.0))


# --- Transfers -----------------------------------------------------------------------


@each_row
def test_a_jitted_step_transfers_nothing(row):
    """C9. A hyperparameter that is an array was transferred when it was made."""
    run = trajectories.of(row)
    with jax.transfer_guard("disallow"):
        params, state = run.step(run.grads[0], run.state, run.params)
    trees.assert_same_bits((params, state), run.after[0])


@everything
def test_jitted_init_and_the_first_step_transfer_nothing(row):
    params, tx = _kernel(0.5, -1.0), row.make()
    with jax.transfer_guard("disallow"):
        state = jax.jit(tx.init)(params)
        jax.jit(tx.step, donate_argnums=(1,))(params, state, params)
        updates, _ = jax.jit(tx.update)(params, jax.jit(tx.init)(params), params)
        jax.jit(optax.apply_updates)(params, updates)


def test_setting_a_hyperparameter_needs_no_implicit_transfer():
    tx = optax.inject_hyperparams(optadamw.adamw)(learning_rate=0.1)
    params = _kernel(0.5, -1.0)
    state, update = jax.jit(tx.init)(params), jax.jit(tx.update)
    with jax.transfer_guard("disallow"):
        state.hyperparams["learning_rate"] = jax.device_put(np.float32(0.0))
        updates, _ = update(params, state, params)
        with pytest.raises(Exception, match=r"[Dd]isallowed"):
            jax.jit(jnp.add)(params["kernel"], np.float32(1))
    assert not np.any(np.asarray(updates["kernel"]))


# --- x64 -----------------------------------------------------------------------------


@each_row
def test_types_do_not_depend_on_x64(row):
    """C10, N10: the types of the state, of the updates and of the parameters."""
    shapes = jax.eval_shape(lambda: trees.normal(trees.MIXED, seed=0))
    narrow = _types(row, shapes)
    with jax.enable_x64(True):
        assert _types(row, shapes) == narrow
    assert narrow[0].step == "int32[]"


def _types(row: Row, shapes: Any) -> Any:
    tx = row.make()
    state = jax.eval_shape(tx.init, shapes)
    after = jax.eval_shape(tx.step, shapes, state, shapes)
    updates = jax.eval_shape(tx.update, shapes, state, shapes)
    return trees.types_of((state, tuple(after), updates))


@everything
def test_numbers_do_not_depend_on_x64(row):
    params, grads = (trees.normal(trees.FLOATS, seed=i) for i in range(2))
    tx = row.make()
    narrow = tx.step(grads, tx.init(params), params)
    with jax.enable_x64(True):
        again = row.make()
        wide = again.step(grads, again.init(params), params)
    assert trees.largest_difference(wide, narrow) <= 1e-6


def test_injected_hyperparameters_do_not_drift_under_x64():
    with jax.enable_x64(True):
        params = trees.normal(trees.PAIR, seed=0)
        tx = optax.inject_hyperparams(optadamw.adamw)(**NUMBERS)
        state = tx.init(params)
        updates, after = tx.update(params, state, params)
        trees.assert_same_types(after.inner_state, state.inner_state)
        trees.assert_same_types(updates, params)


def test_float64_parameters_have_float64_buffers():
    with jax.enable_x64(True):
        kinds = trees.PAIR | {"wide": (jnp.float64, (2,)), "z": (jnp.complex128, (2,))}
        params = trees.normal(kinds, seed=0)
        tx = optadamw.adamw(0.1, amsgrad=True, ema_decay=0.9)
        state = tx.init(params)
        trees.assert_same_types(tx.step(params, state, params), (params, state))
        for buffers in trees.buffers_of(state).values():
            dtypes = {name: str(buffer.dtype) for name, buffer in buffers.items()}
            assert dtypes == {
                "kernel": "float32",
                "bias": "float32",
                "wide": "float64",
                "z": "complex128",
            }


# --- A CPU that contracts no products ------------------------------------------------


def test_eager_jit_and_scan_are_the_same_where_products_are_not_contracted():
    """B2's exact lane, in a process of its own."""
    lane.run(Path(__file__).with_name("exact_lane.py"), "--xla_cpu_max_isa=AVX")
