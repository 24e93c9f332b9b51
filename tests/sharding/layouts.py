"""The layout of a state by construction, on eight devices; run by `test_lanes.py`."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optadamw
from optadamw import checkpoint
from tests.support import trees
from tests.support.lookahead import lookahead

FORM = optadamw.blockwise(min_size=0)
CHAINS = {
    "plain": optadamw.adamw(0.1),
    "blocks": optadamw.adamw(0.1, mu_dtype=FORM, nu_dtype=FORM),
    "window": optadamw.adamw(0.1, accumulate_steps=2, skip_nonfinite=True),
    "average": optadamw.adamw(0.1, ema_decay=0.9, amsgrad=True, stats=True),
    "custom": optadamw.chain(
        *(optadamw.scale_by_adam(), optadamw.scale_by_learning_rate(0.1)),
        lookahead(2, 0.5),
    ),
    "in an optax.chain": optax.chain(optax.trace(0.9), optadamw.adamw(0.1)),
    "in MultiSteps": optax.MultiSteps(optadamw.adamw(0.1), 2).gradient_transformation(),
    "masked": optax.masked(optadamw.adamw(0.1), {"w": True, "b": False, "s": True}),
    "injected": optax.inject_hyperparams(optadamw.adamw)(learning_rate=0.1),
}
SHAPES = {"w": (64, 512), "b": (16,), "s": ()}
SPECS = {"w": P("data", "model"), "b": P(("data", "model")), "s": P()}

each_kind = pytest.mark.parametrize("kind", ["Auto", "Explicit"])


def mesh_of(kind: str, devices: int = 8, names: tuple[str, ...] = ("data", "model")):
    shape = (devices // 2, 2) if len(names) == 2 else (devices,)
    types = (getattr(AxisType, kind),) * len(names)
    return jax.make_mesh(
        shape, names, axis_types=types, devices=jax.devices()[:devices]
    )


def placed(mesh: Any, specs: Any = SPECS) -> dict[str, jax.Array]:
    return {
        name: jax.device_put(jnp.ones(shape), NamedSharding(mesh, specs[name]))
        for name, shape in SHAPES.items()
    }


def shapes_of(tree: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
    )


def held(tree: Any) -> int:
    """The bytes on the first device."""
    return sum(
        shard.data.nbytes
        for x in jax.tree.leaves(tree)
        for shard in x.addressable_shards
        if shard.device == jax.devices()[0]
    )


def planned(shapes: Any) -> int:
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(shapes)
    )


@pytest.mark.parametrize("name", CHAINS)
@each_kind
def test_a_state_made_with_it_stays_there(name, kind):
    """out_shardings of init and of the step, and one program after three steps."""
    tx, params = CHAINS[name], placed(mesh_of(kind))
    layout = optadamw.state_sharding(tx, shapes_of(params))
    assert layout == optadamw.state_sharding(tx, params)
    state = jax.jit(tx.init, out_shardings=layout)(params)
    optadamw.check_sharding(state, layout)
    step = jax.jit(
        lambda p, s, g: optadamw.step(tx, g, s, p),
        out_shardings=(jax.tree.map(lambda x: x.sharding, params), layout),
    )
    pair = (params, state)
    for _ in range(3):
        pair = step(*pair, params)
    assert jax.tree.map(lambda x: x.sharding, pair[1]) == layout
    assert step._cache_size() == 1


@pytest.mark.parametrize("name", [n for n in CHAINS if n != "masked"])
def test_buffers_lie_as_parameters_and_counters_everywhere(name):
    params = placed(mesh_of("Auto"))
    layout = optadamw.state_sharding(CHAINS[name], params)
    for path, sharding in jax.tree_util.tree_flatten_with_path(layout)[0]:
        key = getattr(path[-1], "key", None)
        if key in SHAPES and "scales" not in jax.tree_util.keystr(path):
            assert sharding == params[key].sharding, path
        elif "scales" not in jax.tree_util.keystr(path):
            assert sharding.is_fully_replicated, path
            assert sharding.device_set == set(jax.devices()), path


# Mesh, shape and spec of a parameter, shape and spec of its scales.
FEW_BLOCKS = {
    "one of two axes": ((2, 4), (64, 16), P(("x", "y"), None), P("x", None)),
    "two of three": ((2, 2, 2), (128, 16), P(("x", "y", "z"), None), P(("x", "y"))),
    "beside another": ((2, 2, 2), (16, 64), P("z", ("x", "y")), P("z", "x")),
    "the first does not": ((4, 2), (64, 16), P(("x", "y"), None), P()),
}


@pytest.mark.parametrize(
    ("sizes", "shape", "spec", "scales"), FEW_BLOCKS.values(), ids=FEW_BLOCKS
)
@each_kind
def test_scales_lie_over_the_axes_that_divide_them(sizes, shape, spec, scales, kind):
    """Scales lie at init as a step writes them: three steps are one program."""
    types = (getattr(AxisType, kind),) * len(sizes)
    mesh = jax.make_mesh(sizes, ("x", "y", "z")[: len(sizes)], axis_types=types)
    if kind == "Auto":  # results have no entry of None at the end there
        spec = P(*(part for part in spec if part is not None))
    params = {"w": jax.device_put(jnp.ones(shape), NamedSharding(mesh, spec))}
    tx = CHAINS["blocks"]
    layout = optadamw.state_sharding(tx, params)
    wanted = NamedSharding(mesh, scales)
    assert layout.mu_scales["w"].is_equivalent_to(wanted, len(shape))
    pair = (params, jax.jit(tx.init)(params))
    step = jax.jit(lambda p, s, g: tx.step(g, s, p))
    for state in (tx.init(params), pair[1]):
        assert jax.tree.map(lambda x: x.sharding, state) == layout
    for _ in range(3):
        pair = step(*pair, params)
    assert jax.tree.map(lambda x: x.sharding, pair[1]) == layout
    assert step._cache_size() == 1


@pytest.mark.parametrize("name", CHAINS)
def test_an_axis_divides_the_state_further(name):
    """Bytes are the sums of the shards; 256 devices that do not exist have them too."""
    tx, mesh = CHAINS[name], mesh_of("Auto")
    specs = {"w": P(None, "model"), "b": P(), "s": P()}
    params = placed(mesh, specs)
    layout = optadamw.state_sharding(tx, params, over="data")
    shapes = optadamw.state_shapes(tx, params, over="data")
    state = jax.jit(tx.init, out_shardings=layout)(params)
    assert held(state) == planned(shapes)
    small = planned(optadamw.state_shapes(tx, params))
    # Of blocks the codes are divided, and those scales that the cut of a block leaves.
    assert held(state) < (0.28 if name == "blocks" else 0.27) * small
    abstract = AbstractMesh((128, 2), ("data", "model"))
    far = {
        k: jax.ShapeDtypeStruct(
            (256, 256), jnp.float32, sharding=NamedSharding(abstract, specs[k])
        )
        for k in SHAPES
    }
    for sharding in jax.tree.leaves(optadamw.state_sharding(tx, far, over="data")):
        assert sharding.mesh == abstract


def test_a_leaf_that_is_not_divided_is_reported_or_refused():
    tx, params = CHAINS["plain"], {"b": jnp.ones(7), "s": jnp.ones(())}
    everywhere = NamedSharding(mesh_of("Auto"), P())
    params = jax.device_put(params, everywhere)
    with pytest.warns(UserWarning, match="'b'.*data divides none"):
        layout = optadamw.state_sharding(tx, params, over="data")
    assert layout.mu["b"] == everywhere
    with pytest.raises(ValueError, match=r"Leaf 'b'.*data divides none"):
        optadamw.state_sharding(tx, params, over="data", on_whole="raise")
    optadamw.state_sharding(tx, {"s": params["s"]}, over="data", on_whole="raise")


def test_buffers_in_the_host_and_counters_on_the_device():
    params = placed(mesh_of("Auto"))
    layout = optadamw.state_sharding(
        CHAINS["average"], params, over=None, memory="pinned_host"
    )
    assert layout.mu["w"].memory_kind == layout.ema["s"].memory_kind == "pinned_host"
    assert layout.step.memory_kind != "pinned_host"
    assert layout.mu["w"].spec == SPECS["w"]


BAD = {
    "axis": ({"over": "fsdp"}, ValueError, "'b'.*no axis 'fsdp'.*data, model"),
    "taken": ({"over": "model"}, ValueError, "Leaf 'b'.*divided over 'model' already"),
    "empty": ({"over": ()}, TypeError, "`over` must be"),
    "number": ({"over": 8}, TypeError, "`over` must be"),
    "word": ({"on_whole": "warn"}, ValueError, "`on_whole` must be"),
    "memory": (
        {"memory": "attic"},
        ValueError,
        "Leaf 'mu/b': `memory`.*pinned_host",
    ),
    "kind": ({"memory": 3}, TypeError, "`memory` must be"),
}


@pytest.mark.parametrize(("given", "error", "message"), BAD.values(), ids=BAD)
def test_bad_arguments_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        optadamw.state_sharding(CHAINS["plain"], placed(mesh_of("Auto")), **given)


def test_what_has_no_layout_is_refused():
    tx, shape = CHAINS["plain"], jax.ShapeDtypeStruct((8,), jnp.float32)
    with pytest.raises(ValueError, match=r"Leaf 'w'.*no sharding"):
        optadamw.state_sharding(tx, {"w": shape})
    with pytest.raises(TypeError, match=r"Leaf 'w'.*on no mesh"):
        optadamw.state_sharding(tx, {"w": jnp.ones(8)}, over="data")
    with pytest.raises(TypeError, match="`tx` must be"):
        optadamw.state_sharding(None, {"w": jnp.ones(8)})
    alone = optadamw.state_sharding(tx, {"w": jnp.ones(8)})
    assert all(len(s.device_set) == 1 for s in jax.tree.leaves(alone))


@pytest.mark.parametrize("name", CHAINS)
def test_on_one_device(name):
    """Some wrappers of Optax make arrays of their own."""
    tx = CHAINS[name]
    params = {name: jnp.ones(shape) for name, shape in SHAPES.items()}
    optadamw.check_sharding(tx.init(params), optadamw.state_sharding(tx, params))


@pytest.mark.parametrize("name", ["plain", "masked", "in MultiSteps"])
def test_parameters_on_different_devices(name):
    tx, places = CHAINS[name], iter(jax.devices())
    params = {
        name: jax.device_put(jnp.ones(shape), next(places))
        for name, shape in SHAPES.items()
    }
    state, layout = tx.init(params), optadamw.state_sharding(tx, params)
    found = [
        (x.sharding, y)
        for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(layout), strict=True)
        if x.ndim
    ]
    assert all(x == y for x, y in found)


def test_the_check_names_the_leaf_that_lies_elsewhere():
    tx, params = CHAINS["window"], placed(mesh_of("Auto"))
    state, layout = tx.init(params), optadamw.state_sharding(tx, params)
    optadamw.check_sharding(state, layout)
    optadamw.check_sharding(state, state)
    optadamw.check_sharding(state, optadamw.state_shapes(tx, params))
    moved = state.mu | {"w": jax.device_put(state.mu["w"], layout.step)}
    with pytest.raises(ValueError, match=r"Leaf 'mu/w'.*its sharding is"):
        optadamw.check_sharding(state._replace(mu=moved), layout)
    host = jax.device_put(state.mu["w"], layout.mu["w"].with_memory_kind("pinned_host"))
    with pytest.raises(ValueError, match="Leaf 'mu/w'"):
        optadamw.check_sharding(state._replace(mu=state.mu | {"w": host}), layout)
    with pytest.raises(ValueError, match=r"Leaf 'accumulator/.*no such leaf"):
        optadamw.check_sharding(state._replace(accumulator=None), layout)
    with pytest.raises(TypeError, match="sharding"):
        optadamw.check_sharding(state, layout._replace(step=3))
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(lambda s: optadamw.check_sharding(s, layout))(state)


def test_an_array_without_elements_lies_where_its_devices_are():
    """jit returns it replicated, whatever its sharding was."""
    mesh, tx = mesh_of("Auto"), CHAINS["plain"]
    params = {
        "z": jax.device_put(jnp.ones((0, 8)), NamedSharding(mesh, P(None, "data")))
    }
    layout = optadamw.state_sharding(tx, params)
    state = jax.jit(tx.step)(params, tx.init(params), params)[1]
    optadamw.check_sharding(state, layout)
    elsewhere = state.mu | {"z": jax.device_put(state.mu["z"], jax.devices()[0])}
    with pytest.raises(ValueError, match=r"Leaf 'mu/z'.*its sharding is"):
        optadamw.check_sharding(state._replace(mu=elsewhere), layout)


def test_an_average_that_is_swapped_in_lies_as_the_parameters():
    """The parameters lie meanwhile as the average did: no layout changes."""
    tx, params = CHAINS["average"], placed(mesh_of("Auto"), dict.fromkeys(SHAPES, P()))
    layout = optadamw.state_sharding(tx, params, over="data")
    state = jax.jit(tx.init, out_shardings=layout)(params)
    averaged, swapped = optadamw.swap_ema(state, params)
    optadamw.check_sharding(averaged, params)
    optadamw.check_sharding(swapped.swapped, layout)
    back, again = optadamw.swap_ema(swapped, averaged)
    optadamw.check_sharding((back, again), (params, layout))
    trees.assert_same_bits((back, again), (params, state))


def test_an_average_is_swapped_under_jit_on_explicit_axes():
    tx, mesh = CHAINS["average"], mesh_of("Explicit")
    params = placed(mesh, dict.fromkeys(SHAPES, P()))
    layout = optadamw.state_sharding(tx, params, over="data")
    state = jax.jit(tx.init, out_shardings=layout)(params)
    averaged, swapped = jax.jit(optadamw.swap_ema)(state, params)
    optadamw.check_sharding(averaged, params)
    optadamw.check_sharding(swapped.swapped, layout)


# --- Restoring anywhere --------------------------------------------------------------


def _trained(tx: Any, mesh: Any) -> Any:
    params = placed(mesh, {"w": P("data"), "b": P(), "s": P()})
    state = tx.init(params)
    for seed in range(2):
        grads = trees.normal({k: (jnp.float32, s) for k, s in SHAPES.items()}, seed)
        params, state = jax.jit(tx.step)(grads, state, params)
    return state


@pytest.mark.parametrize("name", ["blocks", "window", "custom"])
def test_a_restore_into_shapes_or_a_layout_of_ones_own(name):
    """8 -> 4: `step` is on all four devices; a further divided layout is kept."""
    tx = CHAINS[name]
    state = _trained(tx, mesh_of("Auto"))
    saved = checkpoint.to_portable(tx, state)
    mesh = mesh_of("Auto", 4, ("data",))
    home = shapes_of(placed(mesh, {"w": P(), "b": P(), "s": P()}))
    whole, report = checkpoint.restore(tx, home, saved)
    assert report.is_whole
    optadamw.check_sharding(whole, optadamw.state_sharding(tx, home))
    layout = optadamw.state_sharding(tx, home, over="data")
    divided, report = checkpoint.restore(tx, home, saved, sharding=layout)
    optadamw.check_sharding(divided, layout)
    trees.assert_same_bits(jax.device_get(divided), jax.device_get(state))
    moved = {name: (old, new) for name, old, new in report.moved}
    assert "mu/w" in moved and "step" in moved
    assert moved["step"] == ("P() on data=4, model=2", "P() on data=4")
    assert "moved" in str(report) and "P('data') on data=4" in str(report)
    again, report = checkpoint.restore(tx, home, divided)
    assert {now for _, _, now in report.moved} == {"P() on data=4"}
    optadamw.check_sharding(again, whole)


@each_kind
def test_digests_are_those_of_every_layout(kind):
    """Whole, cut, cut further, in NumPy: one digest, and no array is gathered."""
    tx = CHAINS["blocks"]
    whole = tx.init({name: jnp.ones(shape) for name, shape in SHAPES.items()})
    wanted = checkpoint.digests(whole)
    assert checkpoint.digests(jax.device_get(whole)) == wanted
    params = placed(mesh_of(kind))
    assert checkpoint.digests(tx.init(params)) == wanted
    layout = optadamw.state_sharding(
        tx, placed(mesh_of(kind), dict.fromkeys(SHAPES, P())), over="data"
    )
    checkpoint.verify(jax.device_put(whole, layout), wanted)


def test_a_layout_of_another_structure_is_refused():
    tx, params = CHAINS["plain"], placed(mesh_of("Auto"))
    state = tx.init(params)
    other = optadamw.state_sharding(CHAINS["window"], params)
    with pytest.raises(ValueError, match=r"Leaf 'accumulator/.*no such leaf"):
        checkpoint.restore(tx, params, state, sharding=other)
    layout = optadamw.state_sharding(tx, params)
    with pytest.raises(ValueError, match=r"Leaf 'nu/.*`sharding` has no such leaf"):
        checkpoint.restore(tx, params, state, sharding=layout._replace(nu=None))
    with pytest.raises(TypeError, match="must be a sharding"):
        checkpoint.restore(tx, params, state, sharding=layout._replace(step=8))


@pytest.mark.parametrize("over", [None, "data"])
def test_orbax_restores_on_another_topology(tmp_path, over):
    """8 -> 4 -> 8, and the next step compiles as it always would."""
    ocp = pytest.importorskip("orbax.checkpoint")
    tx = CHAINS["blocks"]
    state = _trained(tx, mesh_of("Auto"))
    whole = jax.device_get(state)
    for i, devices in enumerate((4, 8)):
        with ocp.StandardCheckpointer() as keeper:
            keeper.save(tmp_path / str(i), state)
            keeper.wait_until_finished()
            mesh = mesh_of("Auto", devices, ("data",))
            home = shapes_of(placed(mesh, {"w": P(), "b": P(), "s": P()}))
            target = optadamw.state_shapes(tx, home, over=over)
            state = keeper.restore(tmp_path / str(i), target)
        optadamw.check_sharding(state, target)
        trees.assert_same_bits(jax.device_get(state), whole)
