"""Kernels of shards, on eight devices, in Pallas's interpreter.

Run by `test_kernels.py` under `XLA_FLAGS=--xla_force_host_platform_device_count=8`. In
this process a CPU is taken for a platform with kernels.
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import mlir
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optadamw
from optadamw.leaf.pallas import choice, devices
from tests.support import trees

KEPT = optadamw.blockwise(min_size=0)
TX = optadamw.adamw(1e-2, mu_dtype=KEPT, nu_dtype=KEPT, weight_decay=0.1)

CASES = {
    "rows": ((256, 24), P(("data", "model"))),
    "columns": ((32, 40), P(None, "data")),
    "both": ((128, 24), P("data", "model")),
    "stacked": ((4, 64, 24), P("model", None, "data")),
    "deep": ((2, 4, 64, 8), P("model", "data")),
    "whole": ((64, 24), P()),
}
CUT = ((128, 24), P(("data", "model")))
"""Four blocks over eight devices."""


@pytest.fixture(params=["tpu", "gpu"])
def target(request, monkeypatch):
    """A target whose kernels the interpreter runs."""
    tiles = functools.wraps(choice.run_tiles)(
        lambda program, target, _, *rest: RUN_TILES(program, target, True, *rest)
    )
    monkeypatch.setattr(choice, "run_tiles", tiles)
    monkeypatch.setitem(devices.TARGETS, "cpu", (request.param,))
    monkeypatch.setattr(
        choice, "device_of", lambda *_: contextlib.nullcontext(enter_result=True)
    )
    rule = choice._lowered(request.param)
    mlir.register_lowering(choice.leaf_p, rule, platform="cpu")
    jax.clear_caches()
    return request.param


RUN_TILES = choice.run_tiles


def normal(shape, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def two_steps(tx, shape, sharding=None):
    place = (lambda x: x) if sharding is None else lambda x: jax.device_put(x, sharding)
    params = {"w": place(normal(shape, 0))}
    state, step = tx.init(params), jax.jit(tx.step)
    text = step.lower({"w": place(normal(shape, 1))}, state, params).as_text()
    for seed in (1, 2):
        params, state = step({"w": place(normal(shape, seed))}, state, params)
    return params, state, text


def assert_same(found, expected):
    """Codes and scales bit for bit; parameters up to a contraction."""
    trees.assert_same_bits(found[1], expected[1])
    np.testing.assert_allclose(found[0]["w"], expected[0]["w"], rtol=2e-6, atol=1e-7)


def sharding_of(kind, spec):
    types = (getattr(AxisType, kind),) * 2
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=types)
    return NamedSharding(mesh, spec)


@pytest.mark.parametrize("kind", ["Auto", "Auto, stated", "Explicit"])
@pytest.mark.parametrize("case", CASES)
def test_shards_have_the_bits_of_the_whole_leaf(target, kind, case):
    shape, spec = CASES[case]
    sharding = sharding_of(kind.partition(",")[0], spec)
    tx = TX
    if "stated" in kind:
        tx = optadamw.with_pallas(TX, shardings={"w": sharding})
    found = two_steps(tx, shape, sharding)
    assert "manual" in found[2]  # shard_map
    assert found[0]["w"].sharding.is_equivalent_to(sharding, len(shape))
    expected = two_steps(optadamw.with_pallas(TX, enabled=False), shape)
    assert "manual" not in expected[2]
    assert_same(found, expected)


@pytest.mark.parametrize("target", ["gpu"], indirect=True)
@pytest.mark.parametrize("spec", [P(), P("data")])
def test_a_leaf_of_one_axis_has_the_bits_of_the_whole_leaf(target, spec):
    """Its kernel sees it as one row; a TPU has no kernel for it."""
    tx = optadamw.adamw(1e-2, mu_dtype=KEPT, nu_dtype=optadamw.stochastic("bfloat16"))
    found = two_steps(tx, (256,), sharding_of("Auto", spec))
    assert "manual" in found[2]
    assert_same(found, two_steps(optadamw.with_pallas(tx, enabled=False), (256,)))


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_a_sharding_that_cuts_blocks_has_no_kernel(target, kind):
    shape, spec = CUT
    sharding = sharding_of(kind, spec)
    expected = two_steps(optadamw.with_pallas(TX, enabled=False), shape)
    stated = optadamw.with_pallas(TX, shardings={"w": sharding})
    for tx in (TX, stated) if kind == "Auto" else (TX,):
        found = two_steps(tx, shape, sharding)
        assert "manual" not in found[2]
        assert_same(found, expected)


ROWS, COLUMNS = P(("data", "model")), P(None, "data")


def placed(specs, shape=(256, 32), kind="Auto"):
    """Shapes of parameters, and of a state that is divided as they are."""
    params = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding_of(kind, spec))
        for name, spec in specs.items()
    }
    return params, optadamw.state_shapes(TX, params)


def lowered(function, *given):
    return jax.jit(function).lower(*given).as_text()


def train_step(params, state, batch):
    def loss(params):
        return sum(jnp.sum((batch @ w.T) ** 2) for w in params.values())

    return TX.step(jax.grad(loss)(params), state, params)


def several(params, state, batch):
    def turn(carry, _):
        return tuple(jax.jit(train_step)(*carry, batch)), None

    return jax.lax.scan(turn, (params, state), length=2)[0]


BATCH = jax.ShapeDtypeStruct((8, 32), jnp.float32)
"""As many numbers as scales, on one device."""


def test_a_train_step_finds_how_its_arguments_are_divided(target):
    """In any function inside; one function has another program for each layout."""
    for spec, part in ((ROWS, "32x32"), (COLUMNS, "256x8")):
        text = lowered(several, *placed({"v": spec, "w": spec}), BATCH)
        assert f"tensor<{part}xui8>" in text  # the codes of a shard


def test_which_arguments_of_the_shape_of_a_parameter_count(target):
    """An array of integers does not; a gradient that lies on one device does."""
    params, state = placed({"w": ROWS})
    whole = sharding_of("Auto", P())
    tokens = jax.ShapeDtypeStruct((256, 32), jnp.int32, sharding=whole)

    def step(grads, state, params, tokens):
        return TX.step(grads, state, params), tokens

    assert "manual" in lowered(step, params, state, params, tokens)
    bare = {"w": jax.ShapeDtypeStruct((256, 32), jnp.float32)}
    assert "manual" not in lowered(TX.step, bare, state, params)


def test_arguments_of_one_shape_that_are_divided_otherwise_show_nothing(target):
    """XLA then runs the leaf, as one whose state is divided further (ZeRO-1)."""
    params, state = placed({"v": ROWS, "w": COLUMNS})
    assert "manual" not in lowered(train_step, params, state, BATCH)
    whole, _ = placed({"v": P(), "w": P()})
    _, state = placed({"v": COLUMNS, "w": COLUMNS})
    assert "manual" not in lowered(train_step, whole, state, BATCH)


SPECS = {"v": ROWS, "w": COLUMNS}
"""Two parameters of one shape, of which arguments do not show how each is divided."""


def arrays(place=lambda name, x: x, shape=(256, 32)):
    return {name: place(name, normal(shape, seed)) for seed, name in enumerate(SPECS)}


def there(name, x):
    return jax.device_put(x, sharding_of("Auto", SPECS[name]))


def test_jit_step_states_the_shardings_of_its_arguments(target):
    """In one program for all calls, in place, with the bits of whole leaves."""
    del target
    params, grads = arrays(there), arrays(there)
    tx = optadamw.with_seed(TX, 3)  # whose programs nobody else has
    state = tx.init(params)
    assert "manual" in tx.jit_step.lower(grads, state, params).as_text()
    old = params
    for _ in range(2):
        params, state = tx.jit_step(grads, state, params)
    assert all(x.is_deleted() for x in old.values())
    programs = tx.jit_step.programs.at(params, state)
    assert programs is not tx.jit_step.programs
    assert programs.in_place._cache_size() == 1
    plain = optadamw.with_pallas(tx, enabled=False)
    whole, expected = arrays(), plain.init(arrays())
    for _ in range(2):
        whole, expected = jax.jit(plain.step)(arrays(), expected, whole)
    trees.assert_same_bits(state, expected)
    for name, x in params.items():
        np.testing.assert_allclose(x, whole[name], rtol=2e-6, atol=1e-7)


def test_jit_step_does_not_move_a_state_that_is_divided_further(target):
    del target
    whole = {name: sharding_of("Auto", P()) for name in SPECS}
    params = jax.device_put(arrays(), whole)
    state = TX.init(arrays(there))
    assert "manual" not in TX.jit_step.lower(params, state, params).as_text()


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_zero1_runs_kernels_of_the_parts_of_its_state(target, kind):
    del target
    home = sharding_of(kind, P(None, "model") if kind == "Explicit" else P())
    params = jax.device_put(arrays(), home)
    tx = optadamw.with_zero1(TX, "data", layout=dict.fromkeys(params, home))
    state = tx.init(params)
    assert state.mu["w"].sharding.shard_shape((256, 32))[0] == 64
    step = jax.jit(tx.step)
    assert "manual" in step.lower(params, state, params).as_text()
    found = step(params, state, params)
    plain = optadamw.with_pallas(TX, enabled=False)
    expected = jax.jit(plain.step)(arrays(), plain.init(arrays()), arrays())
    trees.assert_same_bits(found[1], expected[1])
    for name, x in found[0].items():
        assert x.sharding.is_equivalent_to(home, 2)
        np.testing.assert_allclose(x, expected[0][name], rtol=2e-6, atol=1e-7)
