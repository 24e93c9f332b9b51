"""Laws of the state: its types and structure are fixed, and steps compile once."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from tests.support import trajectories, trees
from tests.support.compilations import Compilations
from tests.support.hyperparameters import cooling
from tests.support.over import over
from tests.support.transformations import EVERYTHING, NUMBERS, ROWS, SCHEDULES, WIDE

each_row = over(ROWS)
everything = over(EVERYTHING)

COUNTER = "int32[]"


# --- Types and structure -------------------------------------------------------------


@each_row
def test_init_on_shapes_gives_the_types_of_init(row):
    tx, params = row.make(), trees.normal(trees.MIXED, seed=0)
    shapes = jax.eval_shape(lambda: params)
    state = tx.init(params)
    for abstract in (tx.init(shapes), jax.eval_shape(tx.init, params)):
        trees.assert_same_types(abstract, state)
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(shapes))


@each_row
def test_jitted_init_gives_what_init_gives(row):
    run = trajectories.of(row)
    trees.assert_same_bits(jax.jit(run.tx.init)(run.params), run.state)


@each_row
def test_types_are_a_fixed_point_wherever_a_step_is_traced(row):
    """In jit, scan, cond, vmap and remat; scan and cond raise if they are not."""
    tx, params, grads = row.make(), *_mixed()
    state = tx.init(params)
    carry = (params, state)

    def step(grads: Any, state: Any, params: Any) -> Any:
        return tx.step(grads, state, params)

    def scan(grads: Any, state: Any, params: Any) -> Any:
        body = trajectories.scan_body(tx)
        return jax.lax.scan(body, (params, state), trajectories.stack([grads] * 2))[0]

    def cond(grads: Any, state: Any, params: Any) -> Any:
        branches = (lambda: step(grads, state, params)), (lambda: (params, state))
        return jax.lax.cond(jnp.bool_(True), *branches)

    def vmap(grads: Any, state: Any, params: Any) -> Any:
        batch = trajectories.stack([(grads, state, params)] * 2)
        return jax.tree.map(lambda x: x[0], jax.vmap(step)(*batch))

    for program in (tx.step, step, scan, cond, vmap, jax.checkpoint(step)):
        after = jax.eval_shape(program, grads, state, params)
        trees.assert_same_types(tuple(after), carry)


@each_row
def test_updates_have_the_types_of_the_parameters(row):
    tx, params, grads = row.make(), *_mixed()
    state = tx.init(params)
    updates, after = jax.eval_shape(tx.update, grads, state, params)
    trees.assert_same_types(after, state)
    chosen = row.options.get("update_dtype")
    if chosen is None:
        trees.assert_same_types(updates, params)
        return
    for name, p in params.items():
        if not jnp.iscomplexobj(p):
            assert (updates[name].dtype, updates[name].shape) == (chosen, p.shape)


def test_complex_parameters_have_complex_updates():
    params = {"phase": jnp.ones((2, 3), jnp.complex64)}
    tx = optadamw.adamw(0.1, update_dtype="float32")
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["phase"].shape == (2, 3)
    assert updates["phase"].dtype == jnp.complex64


@each_row
def test_types_are_a_fixed_point_in_eager_mode(row):
    run = trajectories.of(row)
    params, state = run.tx.step(run.grads[0], run.state, run.params)
    trees.assert_same_types((params, state), (run.params, run.state))
    _, state = run.tx.update(run.grads[0], run.state, run.params)
    trees.assert_same_types(state, run.state)


@each_row
def test_state_is_one_record_with_a_strong_counter(row):
    state = row.make().init(trees.normal(trees.MIXED, seed=0))
    assert isinstance(state, optadamw.State)
    types = trees.types_of(state)
    assert types.step == COUNTER
    assert not any("weak" in leaf for leaf in jax.tree.leaves(types))
    for buffer in jax.tree.leaves(trees.buffers_of(types)):
        forms = ("float32", "complex64", "bfloat16", "uint8", "int16", "float16")
        assert buffer.split("[")[0] in forms


@each_row
def test_gradients_of_another_dtype_leave_the_types_as_they_are(row):
    """The dtypes of parameters and options decide, not those of gradients."""
    tx, params, grads = row.make(), *_mixed()
    state = tx.init(params)
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        others = {
            name: g if jnp.iscomplexobj(g) else g.astype(dtype)
            for name, g in grads.items()
        }
        after = jax.eval_shape(tx.step, others, state, params)
        trees.assert_same_types(tuple(after), (params, state))


@pytest.mark.parametrize("name", [*NUMBERS, "all"])
def test_structure_is_the_same_for_a_number_an_array_and_a_schedule(name):
    chosen = NUMBERS if name == "all" else {name: NUMBERS[name]}
    base = {"learning_rate": 0.1}
    if name == "ema_decay":
        base |= {"ema_overwrite_every": 3}
    params, grads = _mixed()
    forms = {
        "number": chosen,
        "NumPy": {n: np.float32(x) for n, x in chosen.items()},
        "weak": {n: jnp.asarray(x) for n, x in chosen.items()},
        "strong": {n: jnp.float32(x) for n, x in chosen.items()},
        "schedule": {n: SCHEDULES[n] for n in chosen},
    }
    found = {}
    for form, options in forms.items():
        tx = optadamw.adamw(**(base | options))
        state = tx.init(params)
        after = jax.eval_shape(tx.step, grads, state, params)
        updates, _ = jax.eval_shape(tx.update, grads, state, params)
        trees.assert_same_types(tuple(after), (params, state))
        trees.assert_same_types(updates, params)
        found[form] = trees.types_of(state)
    assert all(types == found["number"] for types in found.values()), found


def test_an_absent_buffer_holds_no_arrays():
    state = optadamw.adamw(0.1).init(trees.normal(trees.PAIR, seed=0))
    assert state.nu_max is None and state.ema is None
    assert len(jax.tree.leaves(state)) == 1 + 2 * len(trees.PAIR)


def test_counters_saturate():
    """N9: the step after 2**31 - 1 is 2**31 - 1, and everything stays finite."""
    params, grads = _mixed()
    for row in EVERYTHING:
        tx = row.make()
        most = 2**31 - 1
        state = tx.init(params)._replace(step=jnp.int32(most - 1))
        for _ in range(3):
            params_after, state = tx.step(grads, state, params)
            assert int(state.step) == most
            assert all(np.isfinite(x).all() for x in jax.tree.leaves(params_after))
            assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def test_schedules_saturate_with_the_counter():
    tx = optadamw.adamw(cooling)
    params = trees.normal(trees.PAIR, seed=0)
    state = tx.init(params)._replace(step=jnp.int32(2**31 - 2))
    first, state = tx.step(params, state, params)
    second, state = tx.step(params, state, params)
    assert state.step == 2**31 - 1
    trees.assert_same_types(second, first)


def test_random_bits_repeat_when_the_counter_stops():
    params = {"w": jnp.full(64, 1.0, jnp.bfloat16)}
    grads = {"w": jnp.ones(64, jnp.bfloat16)}

    def written(step: int, seed: int) -> np.ndarray:
        tx = optadamw.adamw(1e-4, commit="stochastic", seed=seed)
        state = tx.init(params)._replace(step=jnp.int32(step))
        after, state = tx.step(grads, state, params)
        assert int(state.step) == min(step + 1, 2**31 - 1)
        return np.asarray(after["w"], np.float32)

    last = written(2**31 - 1, 0)
    assert np.array_equal(last, written(2**31 - 1, 0))
    assert not np.array_equal(last, written(2**31 - 2, 0))
    assert not np.array_equal(last, written(2**31 - 1, 1))


# --- Compilation ---------------------------------------------------------------------


@each_row
def test_many_steps_are_traced_and_compiled_once(row):
    run = trajectories.of(row)
    assert (run.traces, run.compilations) == (1, 1)


@over(WIDE)
def test_weak_types_of_parameters_are_kept(row):
    """A Python float is a weak float32; losing that would compile a second time."""
    tx = row.make()
    params = {"kernel": jnp.asarray(0.5), "bias": jnp.ones(3)}
    assert params["kernel"].weak_type
    state = tx.init(params)
    after = jax.eval_shape(tx.step, params, state, params)
    trees.assert_same_types(tuple(after), (params, state))
    trees.assert_same_types(jax.eval_shape(tx.init, params), state)


@everything
def test_python_numbers_as_parameters_compile_once(row):
    tx = row.make()
    params = {"kernel": 0.5, "bias": np.float32(0.25)}
    state = tx.init(params)
    step = jax.jit(tx.step)
    step(params, tx.init({"kernel": 0.1, "bias": np.float32(0.1)}), params)
    with Compilations() as compilations:
        for _ in range(4):
            params, state = step(
                {"kernel": 0.1, "bias": np.float32(0.1)}, state, params
            )
    assert compilations.count == 0
    assert params["kernel"].weak_type and not params["bias"].weak_type


@everything
def test_eager_steps_compile_once(row):
    tx = row.make()
    params = trees.normal({"kernel": (jnp.float32, (11,))}, seed=0)
    carry = tx.step(params, tx.init(params), params)
    with Compilations() as compilations:
        for _ in range(3):
            carry = tx.step(params, carry[1], carry[0])
    assert compilations.count == 0


def test_a_sweep_of_arrays_compiles_once():
    """E4: learning rates, decays, betas and the rest, as arguments of one program."""
    params = trees.normal(trees.FLOATS, seed=0)
    state = optadamw.adamw(**NUMBERS).init(params)

    @jax.jit
    def step(options: Any, grads: Any, state: Any, params: Any) -> Any:
        return optadamw.adamw(**options).step(grads, state, params)

    sweep = [
        {name: jnp.float32(x * share) for name, x in NUMBERS.items()}
        for share in (1.0, 0.9, 0.8)
    ]
    results = [step(sweep[0], params, state, params)]
    with Compilations() as compilations:
        results += [step(options, params, state, params) for options in sweep[1:]]
    assert compilations.count == 0
    assert not np.array_equal(results[0][0]["kernel"], results[2][0]["kernel"])


def test_leaves_of_one_shape_are_traced_once():
    counts = [_equations_traced(count) for count in (1, 20)]
    assert counts[0] == counts[1]


def _equations_traced(count: int) -> int:
    """Count the distinct leaf programs that a tree of `count` equal leaves asks for."""
    params = {str(i): jax.ShapeDtypeStruct((13,), jnp.float32) for i in range(count)}
    tx = optadamw.adamw(1e-3, ema_decay=0.9)
    state = tx.init(params)
    jaxpr = jax.make_jaxpr(tx.step)(params, state, params)
    inner = [eqn.params["jaxpr"] for eqn in jaxpr.eqns if "jaxpr" in eqn.params]
    return len({id(j) for j in inner})


# --- The checks themselves -----------------------------------------------------------


def test_a_compilation_is_noticed():
    with Compilations() as compilations:
        jax.jit(lambda x: x + 1)(1.0)
    assert compilations.count == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"a": jnp.float32(1.0), "b": None},
        {"a": jnp.asarray(1.0)},
        {"a": jnp.ones(1)},
        {"a": jnp.bfloat16(1.0)},
    ],
    ids=["structure", "weak type", "shape", "dtype"],
)
def test_a_change_of_type_is_noticed(changed):
    with pytest.raises(AssertionError):
        trees.assert_same_types(changed, {"a": jnp.float32(1.0)})


def test_a_change_of_sign_of_zero_is_noticed():
    with pytest.raises(AssertionError, match="1 of 2 differ"):
        trees.assert_same_bits(jnp.array([0.0, 1.0]), jnp.array([-0.0, 1.0]))


def _mixed() -> tuple[Any, Any]:
    return trees.normal(trees.MIXED, seed=0), trees.normal(trees.MIXED, seed=1)
