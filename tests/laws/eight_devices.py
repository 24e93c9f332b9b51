"""Laws of sharding, on eight devices: buffers lie where their parameters lie.

Run by `test_sharding.py` under `XLA_FLAGS=--xla_force_host_platform_device_count=8`.
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optadamw
from optadamw.store.state import SCALARS
from tests.support import trees
from tests.support.over import over
from tests.support.trajectories import assert_agree
from tests.support.transformations import CUSTOM, EVERYTHING, ROWS, Row

KINDS = {
    "kernel": (jnp.float32, (8, 6)),
    "bias": (jnp.bfloat16, (16,)),
    "scale": (jnp.float32, ()),
}
FLOATS = KINDS | {"bias": (jnp.float32, (16,))}
SPECS = {"kernel": P("data", "model"), "bias": P(("data", "model")), "scale": P()}

everything = over((*EVERYTHING, *(row for row in CUSTOM if row.is_elementwise)))
each_kind = pytest.mark.parametrize("kind", ["Auto", "Explicit"])
in_and_out = pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])


def test_there_are_eight_devices():
    assert len(jax.devices()) == 8


def _mesh(kind: str) -> jax.sharding.Mesh:
    axis_types = (getattr(AxisType, kind),) * 2
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=axis_types)


def _shardings(mesh: jax.sharding.Mesh) -> dict[str, NamedSharding]:
    return {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}


def _sharded(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    shardings = _shardings(mesh)
    return {name: jax.device_put(x, shardings[name]) for name, x in tree.items()}


def _within(mesh: jax.sharding.Mesh, inside: bool) -> Any:
    return jax.set_mesh(mesh) if inside else contextlib.nullcontext()


def _assert_placed(row: Row, state: Any, params: Any, mesh: jax.sharding.Mesh) -> None:
    """Every buffer as its parameter, the counter everywhere."""
    buffers = trees.buffers_of(state)
    if state.accumulator is not None:
        buffers["accumulator"] = state.accumulator
    for name, tree in buffers.items():
        for key, buffer in tree.items():
            if buffer is None and row.has_gaps:
                continue
            wanted = params[key].sharding
            assert buffer.sharding.is_equivalent_to(wanted, buffer.ndim), (name, key)
    small = [getattr(state, name) for name in SCALARS]
    for x in jax.tree.leaves(small):
        assert x.sharding.is_fully_replicated
        assert x.sharding.device_set == set(mesh.devices.flat)


@everything
@each_kind
@in_and_out
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
def test_init_places_buffers_as_parameters(row, kind, inside, jitted):
    """S1, S2, S3."""
    mesh, tx = _mesh(kind), row.make()
    with _within(mesh, inside):
        params = _sharded(trees.normal(KINDS, seed=0), mesh)
        state = (jax.jit(tx.init) if jitted else tx.init)(params)
    _assert_placed(row, state, params, mesh)
    trees.assert_same_bits(state, tx.init(trees.normal(KINDS, seed=0)))


@everything
@each_kind
def test_shapes_give_out_shardings(row, kind):
    """E8: a state is born sharded, from shapes alone."""
    mesh, tx = _mesh(kind), row.make()
    shapes = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=_shardings(mesh)[name])
        for name, (dtype, shape) in KINDS.items()
    }
    abstract = tx.init(shapes)
    everywhere = NamedSharding(mesh, P())
    out = jax.tree.map(lambda x: x.sharding or everywhere, abstract)
    params = _sharded(trees.normal(KINDS, seed=0), mesh)
    born = jax.jit(tx.init, out_shardings=out)(params)
    _assert_placed(row, born, params, mesh)
    traced = jax.eval_shape(tx.init, shapes)
    trees.assert_same_types(traced, abstract)


SUMS_ON_10 = ("scale_by_adam-options", "adamw-nesterov-current")
NESTEROV = {
    name: "the sum of two products, of the moment and of the gradient, is contracted "
    "otherwise in a sharded program"
    for name in (
        *("scale_by_adam-options", "adamw-nesterov", "adamw-everything_elementwise"),
        "adamw-nesterov-current",
    )
    # On jax 0.10 the first and the last alone.
    if jax.__version_info__ >= (0, 12) or name in SUMS_ON_10
}


# LLVM contracts the sum for the processor: on some both programs have equal bits.
@over(ROWS, NESTEROV, is_strict=False)
def test_a_sharded_step_is_the_unsharded_one(row):
    """S4, B2, B4; and shardings are the same before and after."""
    tx, mesh = row.make(), _mesh("Auto")
    kinds = {name: KINDS[name] for name in ("kernel", "bias")}
    if not (row.is_elementwise or row.is_narrow):
        kinds["bias"] = FLOATS["bias"]
    params, grads = (trees.normal(kinds, seed=i) for i in range(2))
    step = jax.jit(tx.step)
    expected = step(grads, tx.init(params), params)
    placed, state = _sharded(params, mesh), tx.init(_sharded(params, mesh))
    for _ in range(2):
        after = step(_sharded(grads, mesh), state, placed)
        _assert_as_before(after, (placed, state))
        _assert_placed(row, after[1], placed, mesh)
    assert_agree(row, tuple(after), tuple(expected))


@everything
@in_and_out
@pytest.mark.parametrize("call", ["donated", "update"])
def test_explicit_axes_stay_as_they_are(row, inside, call):
    tx, mesh = row.make(), _mesh("Explicit")
    with _within(mesh, inside):
        params, grads = (_sharded(trees.normal(FLOATS, seed=i), mesh) for i in range(2))
        state = tx.init(params)
        plain = tx.init(trees.normal(FLOATS, seed=0))
        before = jax.tree.map(lambda x: x.sharding, (params, state))
        if call == "update":
            after = jax.jit(tx.update)(grads, state, params)
        else:
            after = jax.jit(tx.step, donate_argnums=(1, 2))(grads, state, params)
    trees.assert_same_types(after[1], plain)
    for leaf, wanted in zip(
        jax.tree.leaves(tuple(after)), jax.tree.leaves(before), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(wanted, leaf.ndim)


@each_kind
def test_eager_steps_stay_as_they_are(kind):
    (row,) = (row for row in EVERYTHING if row.is_elementwise)
    tx, params = row.make(), _sharded(trees.normal(KINDS, seed=0), _mesh(kind))
    state = tx.init(params)
    _assert_as_before(tx.step(params, state, params), (params, state))


def _assert_as_before(after: Any, before: Any) -> None:
    trees.assert_same_types(tuple(after), before)
    for a, b in zip(
        jax.tree.leaves(tuple(after)), jax.tree.leaves(before), strict=True
    ):
        assert a.sharding.is_equivalent_to(b.sharding, a.ndim)


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
@each_kind
def test_a_state_without_buffers_is_born_where_it_stays(kind, jitted):
    """No array of it depends on a parameter, and `jit` drops what is not used."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(getattr(AxisType, kind),))
    place = NamedSharding(mesh, P(None, "data"))
    params = {"w": jax.device_put(jnp.ones((8, 8)), place)}
    for tx in (optadamw.scale_by_learning_rate(0.1), optadamw.clip_by_value(1.0)):
        state = (jax.jit(tx.init) if jitted else tx.init)(params)
        step = jax.jit(lambda g, s, p, tx=tx: tuple(tx.step(g, s, p)))
        after = step(params, step(params, state, params)[1], params)
        assert after[1].step.sharding == state.step.sharding
        assert step._cache_size() == 1


FORM = optadamw.blockwise(min_size=0)
BORN = {
    "window": {"accumulate_steps": 2},
    "blocks": {"mu_dtype": FORM, "nu_dtype": FORM},
    "guard": {"skip_nonfinite": True, "ema_decay": 0.9},
}
"""A state with an accumulator, with scales, with an average."""

LAYOUTS = [
    ("Auto", P("data")),
    ("Auto", P(None, "data")),
    # On explicit axes JAX itself makes P("data", None) of a result at P("data").
    ("Explicit", P(None, "data")),
]


@pytest.mark.parametrize("options", BORN.values(), ids=BORN)
@pytest.mark.parametrize(("kind", "spec"), LAYOUTS, ids=str)
@pytest.mark.parametrize("how", ["eager", "jit", "jit in the mesh"])
def test_a_state_is_born_where_it_stays(options, kind, spec, how):
    """Equal shardings before and after, not only equivalent ones: one program."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(getattr(AxisType, kind),))
    tx = optadamw.adamw(0.1, **options)
    with _within(mesh, how == "jit in the mesh"):
        params = {"w": jax.device_put(jnp.ones((512, 512)), NamedSharding(mesh, spec))}
        state = (tx.init if how == "eager" else jax.jit(tx.init))(params)
        step, pair = jax.jit(lambda p, s, g: tx.step(g, s, p)), (params, state)
        before = jax.tree.map(lambda x: x.sharding, pair)
        for _ in range(3):
            pair = step(*pair, params)
        assert jax.tree.map(lambda x: x.sharding, tuple(pair)) == before
        assert step._cache_size() == 1
        jax.jit(tx.update)(params, state, params)
    held = {"mu": state.mu["w"], "accumulator": (state.accumulator or state.mu)["w"]}
    for name, buffer in held.items():
        assert buffer.addressable_shards[0].data.size == 512 * 512 // 8, name


def test_scales_keep_an_explicit_axis_of_one_device():
    """A device has one block, and a reshape would leave out the axis of the mesh."""
    kinds = (AxisType.Explicit,) * 2
    mesh = jax.make_mesh((8, 1), ("data", "model"), axis_types=kinds)
    tx = optadamw.adamw(0.1, mu_dtype=FORM, nu_dtype=FORM, kernel="xla")
    home = NamedSharding(mesh, P(("data", "model")))
    params = {"w": jax.device_put(jnp.ones(136), home)}
    state = tx.init(params)
    before = jax.tree.map(lambda x: x.sharding, (params, state))
    made = jax.jit(tx.step)(params, state, params)
    assert jax.tree.map(lambda x: x.sharding, tuple(made)) == before
