"""Buffers in the memory of the host, on eight devices; run by `test_lanes.py`."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optadamw
from optadamw import checkpoint
from tests.support import trees

BOTH = ("mu", "nu")
FORM = optadamw.blockwise(min_size=0)
CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "plain": ({}, BOTH),
    "one": ({}, ("nu",)),
    "guard": ({"skip_nonfinite": True}, BOTH),
    "clip": ({"clip_global_norm": 0.1}, BOTH),
    "average": (
        {"ema_decay": 0.9, "ema_overwrite_every": 2, "stats": "norms"},
        (*BOTH, "ema"),
    ),
    "maximum": ({"amsgrad": True, "caution": True}, (*BOTH, "nu_max")),
    "window": ({"accumulate_steps": 2, "skip_nonfinite": True}, BOTH),
    "blocks": ({"mu_dtype": FORM, "nu_dtype": FORM}, BOTH),
    "16 bits": ({"mu_dtype": optadamw.stochastic("bfloat16")}, BOTH),
    "groups": ({"groups": {"b": {"freeze": True}}}, BOTH),
    "pallas": ({"mu_dtype": FORM, "nu_dtype": FORM, "kernel": "auto"}, BOTH),
}
SPECS = {"w": P("data"), "b": P()}
# On explicit axes a compiled step returns P("data") as P("data", None).
EXPLICIT = {"w": P("data", None), "b": P(None)}
each_case = pytest.mark.parametrize("name", CASES)
each_kind = pytest.mark.parametrize("kind", ["Auto", "Explicit"])


def mesh_of(kind: str = "Auto") -> Any:
    return jax.make_mesh((8,), ("data",), axis_types=(getattr(AxisType, kind),))


def placed(mesh: Any, specs: Any = SPECS) -> Any:
    rng = np.random.default_rng(0)
    shapes = {"w": (64, 64), "b": (16,)}
    return {
        name: jax.device_put(
            jnp.asarray(rng.standard_normal(shape), jnp.float32),
            NamedSharding(mesh, specs[name]),
        )
        for name, shape in shapes.items()
    }


def on_device(tree: Any) -> Any:
    return jax.device_put(tree, jax.memory.Space.Device)


def kinds(state: Any, name: str) -> set[str]:
    held = (getattr(state, name), getattr(state, f"{name}_scales", None))
    return {x.sharding.memory_kind for x in jax.tree.leaves(held)}


@each_kind
@each_case
def test_a_step_has_the_bits_of_a_step_on_the_device(name, kind):
    options, names = CASES[name]
    plain, tx = (
        optadamw.adamw(0.1, **options),
        optadamw.adamw(0.1, offload=names, **options),
    )
    params = placed(mesh_of(kind), SPECS if kind == "Auto" else EXPLICIT)
    state, wanted = jax.jit(tx.init)(params), jax.jit(plain.init)(params)
    layout = optadamw.state_sharding(tx, params)
    optadamw.check_sharding(tx.init(params), layout)
    step, wanted_step = jax.jit(tx.step), jax.jit(plain.step)
    before = step._cache_size()  # equal steps share their programs
    ours = theirs = params
    for number in range(4):
        grads = jax.tree.map(lambda x, n=number: jnp.cos(x + n), params)
        if number == 2:
            faulty = np.asarray(grads["w"]).copy()
            faulty[0, 0] = np.nan
            grads["w"] = jax.device_put(faulty, params["w"].sharding)
        ours, state = step(grads, state, ours)
        theirs, wanted = wanted_step(grads, wanted, theirs)
        optadamw.check_sharding(state, layout)
    trees.assert_same_bits((ours, on_device(state)), (theirs, wanted))
    assert step._cache_size() <= before + 1
    for buffer in names:
        assert kinds(state, buffer) == {"pinned_host"}
    others = {slot.name for slot in tx.recipe.composition.buffers} - set(names)
    assert all(kinds(state, buffer) <= {"device"} for buffer in others)


@each_kind
def test_with_zero1_the_parts_lie_in_the_host(kind):
    whole = {"w": P(), "b": P()}
    params = placed(mesh_of(kind), whole)
    plain = optadamw.adamw(0.1, zero1="data")
    tx = optadamw.adamw(0.1, zero1="data", offload=BOTH)
    state, wanted = tx.init(params), plain.init(params)
    ours, theirs = params, params
    for _ in range(3):
        ours, state = tx.jit_step(params, state, jax.tree.map(jnp.copy, ours))
        theirs, wanted = plain.jit_step(params, wanted, jax.tree.map(jnp.copy, theirs))
    trees.assert_same_bits((ours, on_device(state)), (theirs, wanted))
    assert state.mu["w"].sharding.spec[0] == "data"
    assert kinds(state, "mu") == {"pinned_host"}


@pytest.mark.parametrize("name", ["plain", "average", "window"])
def test_eager_steps_updates_and_flush(name):
    options, names = CASES[name]
    plain, tx = (
        optadamw.adamw(0.1, **options),
        optadamw.adamw(0.1, offload=names, **options),
    )
    params = placed(mesh_of())
    state, wanted = tx.init(params), plain.init(params)
    ours, state = tx.step(params, state, params)
    theirs, wanted = plain.step(params, wanted, params)
    updates, state = tx.update(params, state, ours)
    others, wanted = plain.update(params, wanted, theirs)
    trees.assert_same_bits((updates, on_device(state)), (others, wanted))
    ours, state = tx.flush(state, ours)
    theirs, wanted = plain.flush(wanted, theirs)
    trees.assert_same_bits((ours, on_device(state)), (theirs, wanted))
    assert kinds(state, "mu") == {"pinned_host"}


@pytest.mark.parametrize("guard", [None, True])
def test_vmap_scan_and_donation(guard):
    tx = optadamw.adamw(0.1, offload=BOTH, skip_nonfinite=guard)
    plain = optadamw.adamw(0.1, skip_nonfinite=guard)
    stacked = {"w": jnp.ones((3, 8, 4)) * jnp.arange(3.0)[:, None, None]}

    def train(tx: Any) -> Any:
        state = jax.vmap(tx.init)(stacked)

        def body(carry: Any, _: Any) -> Any:
            params, state = carry
            return tuple(jax.vmap(tx.step)(params, state, params)), None

        step = jax.jit(lambda carry: jax.lax.scan(body, carry, length=3)[0])
        return step((stacked, state))

    (ours, state), (theirs, wanted) = train(tx), train(plain)
    trees.assert_same_bits((ours, on_device(state)), (theirs, wanted))
    assert kinds(state, "nu") == {"pinned_host"}
    step = jax.jit(tx.step, donate_argnums=(1, 2))
    params = {"w": jnp.ones((64, 64))}
    compiled = step.lower(params, tx.init(params), params).compile()
    found = compiled.memory_analysis()
    assert found.alias_size_in_bytes >= 3 * params["w"].nbytes


def test_a_step_takes_the_leaves_in_batches():
    """More leaves than batches, one of them larger than a batch; a group of norms."""
    options = {"skip_nonfinite": True, "stats": "norms", "clip_global_norm": 0.1}
    tx, plain = (
        optadamw.adamw(0.1, offload=BOTH, **options),
        optadamw.adamw(0.1, **options),
    )
    params = {f"w{i}": jnp.full((8, 4 + i % 3), 0.1 * i) for i in range(40)}
    params["large"] = jnp.ones((16, 16))
    state, wanted = tx.init(params), plain.init(params)
    step = jax.jit(tx.step)
    text = step.lower(params, state, params).as_text()
    assert 16 <= text.count("stablehlo.while") <= 20
    ours, theirs = params, params
    for fault in (0.0, jnp.nan, 0.0):
        grads = jax.tree.map(partial(jnp.add, fault), params)
        ours, state = step(grads, state, ours)
        theirs, wanted = jax.jit(plain.step)(grads, wanted, theirs)
    trees.assert_same_bits((ours, on_device(state)), (theirs, wanted))


def test_a_state_on_the_device_is_moved_and_the_other_is_refused():
    tx, plain = optadamw.adamw(0.1, offload=BOTH), optadamw.adamw(0.1)
    params = placed(mesh_of())
    _, state = tx.jit_step(params, plain.init(params), jax.tree.map(jnp.copy, params))
    assert kinds(state, "mu") == {"pinned_host"}
    with pytest.raises(ValueError, match=r"Leaf 'b': its buffer mu lies in the memory"):
        plain.step(params, tx.init(params), params)
    layout = optadamw.state_sharding(plain, params)
    plain.step(params, jax.device_put(tx.init(params), layout), params)


def test_an_average_is_swapped_and_a_state_restored(tmp_path):
    tx = optadamw.adamw(0.1, ema_decay=0.9, offload=(*BOTH, "ema"))
    params = placed(mesh_of())
    params, state = tx.jit_step(params, tx.init(params), jax.tree.map(jnp.copy, params))
    wanted = jax.device_get((params, state))
    averaged, swapped = optadamw.swap_ema(state, params)
    assert averaged["w"].sharding == params["w"].sharding
    alone = jax.device_put(params, jax.devices()[1])  # to evaluate on one device
    for found in (optadamw.ema_of(state, like=alone), optadamw.finalize(state, alone)):
        optadamw.check_sharding(found, alone)
        trees.assert_same_bits(jax.device_get(found), wanted[1].ema)
    back, again = optadamw.swap_ema(swapped, averaged)
    optadamw.check_sharding(again, optadamw.state_sharding(tx, params))
    trees.assert_same_bits(jax.device_get((back, again)), wanted)
    trees.assert_same_bits(jax.device_get(averaged), wanted[1].ema)
    checkpoint.save(tmp_path / "run", tx, state)
    saved = checkpoint.load(tmp_path / "run")
    restored, report = checkpoint.restore(tx, params, saved)
    assert report.is_whole
    optadamw.check_sharding(restored, optadamw.state_sharding(tx, params))
    trees.assert_same_bits(jax.device_get(restored), wanted[1])
    assert checkpoint.digests(restored) == checkpoint.digests(state)


def test_norms_of_float64_parameters_and_inside_shard_map():
    options = {"stats": "norms", "skip_nonfinite": True}
    tx = optadamw.adamw(0.1, offload=BOTH, **options)
    plain = optadamw.adamw(0.1, **options)
    with jax.enable_x64(True):
        wide = {"w": jnp.full((4, 8), 2.0, jnp.float64)}
        _, state = tx.step(wide, tx.init(wide), wide)
        _, wanted = plain.step(wide, plain.init(wide), wide)
        trees.assert_same_bits(state.stats, wanted.stats)
    params = placed(mesh_of())

    def by_parts(tx: Any) -> Any:
        tx = optadamw.with_axes(tx, sharded={"w": "data"})
        state = tx.init(params)
        layout = jax.tree.map(lambda x: x.spec, optadamw.state_sharding(tx, params))
        step = jax.shard_map(
            lambda grads, state, params: tuple(tx.step(grads, state, params)),
            mesh=mesh_of(),
            in_specs=(SPECS, layout, SPECS),
            out_specs=(SPECS, layout),
        )
        return jax.jit(step)(params, state, params)

    trees.assert_same_bits(on_device(by_parts(tx)), by_parts(plain))


def test_a_state_of_numpy_arrays_is_moved():
    tx, params = optadamw.adamw(0.1, offload="mu"), {"w": jnp.ones((4, 8))}
    state = tx.init(params)
    wanted = jax.device_get(tx.step(params, state, params))
    made = jax.device_get(tx.step(params, jax.device_get(state), params))
    trees.assert_same_bits(made, wanted)


def test_the_average_comes_to_the_device():
    tx, params = optadamw.adamw(0.1, ema_decay=0.9, offload="ema"), placed(mesh_of())
    params, state = tx.jit_step(params, tx.init(params), jax.tree.map(jnp.copy, params))
    final = optadamw.finalize(state, params)
    likes = optadamw.ema_of(state, like=params)
    swapped = jax.jit(lambda s, p: optadamw.swap_ema(s, p)[0]["w"] * p["w"])
    for tree in (final, likes, swapped(state, params)):
        kinds = {x.sharding.memory_kind for x in jax.tree.leaves(tree)}
        assert kinds == {"device"}


def test_plans_and_descriptions_tell_it():
    params = placed(mesh_of())
    plain = optadamw.adamw(0.1)
    tx = optadamw.with_offload(plain)
    assert tx == optadamw.adamw(0.1, offload=BOTH) and tx != plain
    plan = optadamw.memory_plan(plain, params, offload=BOTH, temporaries=False)
    whole = optadamw.memory_plan(plain, params, temporaries=False)
    moments = whole.shares["mu"].per_device + whole.shares["nu"].per_device
    assert plan.on_host == BOTH and plan.shares == whole.shares
    assert plan.persistent.per_device == whole.persistent.per_device - moments
    assert plan.peak == whole.peak - moments
    assert "KiB (host)" in str(plan) and "(host)" not in str(whole)
    text = optadamw.describe(tx, params)
    assert "with_offload: buffers=('mu', 'nu')" in text
    native = optadamw.adamw(0.1, offload=BOTH, kernel="auto")
    reason = "mu lies in the memory of the host"
    assert reason in optadamw.describe(native, params) or "no compiler" in text


@pytest.mark.parametrize(
    ("buffers", "error", "message"),
    [
        ("ema", ValueError, r"buffers of the transformation \(mu, nu\); got 'ema'"),
        (("mu", 3), TypeError, "a tuple of names"),
        ((), TypeError, "a tuple of names"),
        (True, TypeError, "a tuple of names"),
        ("accumulator", ValueError, "on the device"),
    ],
)
def test_bad_names_are_refused(buffers, error, message):
    with pytest.raises(error, match="`buffers`.*" + message):
        optadamw.with_offload(optadamw.adamw(0.1, accumulate_steps=2), buffers)
    with pytest.raises(error, match="`offload`.*" + message):
        optadamw.adamw(0.1, accumulate_steps=2, offload=buffers)
    with pytest.raises(error, match="`offload`.*" + message):
        plain = optadamw.adamw(0.1, accumulate_steps=2)
        optadamw.memory_plan(plain, jnp.ones(3), offload=buffers)


def test_devices_without_memory_of_their_host_are_refused(monkeypatch):
    params = placed(mesh_of())
    monkeypatch.setattr("optadamw.walk.offload.KIND", "attic")
    message = r"Leaf '\w+': `offload` must be a kind of memory that .* has"
    with pytest.raises(ValueError, match=message):
        optadamw.adamw(0.1, offload="nu").init(params)
    with pytest.raises(ValueError, match=message):
        optadamw.state_sharding(optadamw.adamw(0.1, offload="nu"), params)


def test_it_is_used_once_and_around_this_library():
    tx = optadamw.adamw(0.1, offload="mu")
    with pytest.raises(ValueError, match="with_offload already"):
        optadamw.with_offload(tx)
    with pytest.raises(TypeError, match="`inner`"):
        optadamw.with_offload(None)
    assert eval(repr(tx), {"adamw": optadamw.adamw}) == tx
