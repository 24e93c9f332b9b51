"""ZeRO-1 on eight devices; run by `test_lanes.py`."""

import math
import re
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optadamw
from tests.support import trees
from tests.support.transformations import ROWS, Row

KINDS = {
    "kernel": (jnp.float32, (64, 32)),
    "kernel2": (jnp.bfloat16, (48, 32)),
    "bias": (jnp.float32, (64,)),
    "scale": (jnp.float32, ()),
}
TP = {"kernel": P(None, "model"), "kernel2": P("model"), "bias": P(), "scale": P()}
WHOLE = dict.fromkeys(KINDS, P())
MESHES = {"data": ((8,), ("data",)), "data x model": ((4, 2), ("data", "model"))}

PLAIN = [row for row in ROWS if row.is_elementwise]
each_kind = pytest.mark.parametrize("kind", ["Auto", "Explicit"])


@cache
def mesh_of(name: str, kind: str = "Auto") -> Any:
    shape, names = MESHES[name]
    types = (getattr(AxisType, kind),) * len(names)
    return jax.make_mesh(shape, names, axis_types=types)


def placed(tree: Any, mesh: Any, specs: Any) -> Any:
    """The arrays on a mesh; on explicit axes a spec has an entry for each dimension.

    JAX writes the specs of results so, and compiles again for P("model").
    """
    is_explicit = AxisType.Explicit in mesh.axis_types

    def spec_of(name: str, rank: int) -> P:
        return P(*specs[name], *[None] * (is_explicit * (rank - len(specs[name]))))

    return {
        name: jax.device_put(x, NamedSharding(mesh, spec_of(name, x.ndim)))
        for name, x in tree.items()
    }


def layout_of(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.sharding, tree)


def zero1_of(tx: Any, params: Any) -> Any:
    return optadamw.with_zero1(tx, "data", layout=layout_of(params))


def compiled(tx: Any, grads: Any, state: Any, params: Any) -> str:
    step = jax.jit(lambda p, s, g: tx.step(g, s, p), donate_argnums=(0, 1))
    return step.lower(params, state, grads).compile().as_text()


def shapes_gathered(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """Dtype and shape of the result of each all-gather in a module."""
    found = re.findall(r"= (\w+)\[([\d,]*)\]\S* all-gather(?:-start)?\(", text)
    return [(d, tuple(int(n) for n in s.split(",") if n)) for d, s in found]


def per_device(tree: Any) -> int:
    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))


# --- Bits ----------------------------------------------------------------------------


@pytest.mark.parametrize("row", PLAIN, ids=lambda row: row.name)
@each_kind
def test_a_divided_step_is_the_replicated_one_bit_for_bit(row: Row, kind):
    """Bits, layouts and one program, over a window of accumulation too."""
    plain, mesh = row.make(), mesh_of("data x model", kind)
    grads = [trees.normal(KINDS, seed=i) for i in range(1, 4)]
    here = there = placed(trees.normal(KINDS, 0), mesh, TP)
    tx = zero1_of(plain, there)
    state, divided = plain.init(here), tx.init(there)
    step, further = (jax.jit(lambda p, s, g, t=t: t.step(g, s, p)) for t in (plain, tx))
    before = layout_of((there, divided))
    for grad in grads:
        gradient = placed(grad, mesh, TP)
        here, state = step(here, state, gradient)
        there, divided = further(there, divided, gradient)
    assert layout_of((there, divided)) == before
    assert further._cache_size() == 1
    trees.assert_same_bits(
        jax.device_get((there, divided)), jax.device_get((here, state))
    )


@pytest.mark.parametrize("name", ["clip", "everything"])
def test_with_a_norm_only_the_order_of_its_sum_differs(name):
    options = {"clip_global_norm": 0.5, "skip_nonfinite": True}
    if name == "everything":
        options |= {"stats": "norms", "clip_norm": 0.9, "caution": True}
    plain, mesh = optadamw.adamw(0.1, **options), mesh_of("data")
    params = placed(trees.normal(KINDS, 0), mesh, WHOLE)
    grads = placed(trees.normal(KINDS, 1), mesh, WHOLE)
    tx = zero1_of(plain, params)
    whole, _ = jax.jit(plain.step)(grads, plain.init(params), params)
    divided, state = jax.jit(tx.step)(grads, tx.init(params), params)
    for one, other in zip(whole.values(), divided.values(), strict=True):
        np.testing.assert_allclose(
            *(np.asarray(x, np.float32) for x in (one, other)), rtol=1e-2, atol=1e-6
        )
    bad = jax.tree.map(lambda g: jnp.full_like(g, jnp.nan), grads)
    stay, _ = jax.jit(tx.step)(bad, state, divided)
    trees.assert_same_bits(jax.device_get(stay), jax.device_get(divided))


# --- Bytes and collectives -----------------------------------------------------------

FORM = optadamw.blockwise(min_size=0)
KEPT = {
    "plain": {},
    "8-bit": {"mu_dtype": FORM, "nu_dtype": FORM},
    "window": {"accumulate_steps": 2, "skip_nonfinite": True},
    "guard": {"skip_nonfinite": True, "ema_decay": 0.9},
    "master": {"commit": "master"},
}
LARGE = {"w": (jnp.bfloat16, (256, 512)), "v": (jnp.bfloat16, (512, 128))}


@pytest.mark.parametrize("options", KEPT.values(), ids=KEPT)
@each_kind
def test_each_device_has_an_eighth_of_the_state(options, kind):
    tx = optadamw.adamw(0.1, zero1="data", **options)
    params = placed(
        trees.normal(LARGE, 0), mesh_of("data", kind), dict.fromkeys(LARGE, P())
    )
    state = tx.init(params)
    total = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))
    small = sum(x.nbytes for x in jax.tree.leaves(state) if x.ndim < 2)
    assert per_device(state) == (total - small) // 8 + small
    layout = optadamw.state_sharding(tx, params)
    optadamw.check_sharding(state, layout)
    plain = optadamw.adamw(0.1, **options)
    assert layout == optadamw.state_sharding(plain, params, over="data")
    params, state = tx.jit_step(trees.normal(LARGE, 1), state, params)
    optadamw.check_sharding(state, layout)
    assert all(x.sharding.is_fully_replicated for x in params.values())


@pytest.mark.parametrize("options", KEPT.values(), ids=KEPT)
def test_each_parameter_is_gathered_once_and_nothing_else(options):
    """On the CPU a bfloat16 collective is one of float32: see the lane of TPUs."""
    mesh, specs = mesh_of("data"), dict.fromkeys(LARGE, P())
    params = placed(trees.normal(LARGE, 0), mesh, specs)
    grads = placed(trees.normal(LARGE, 1), mesh, specs)
    tx = zero1_of(optadamw.adamw(0.1, **options), params)
    text = compiled(tx, grads, tx.init(params), params)
    large = [s for _, s in shapes_gathered(text) if math.prod(s) > 1024]
    assert sorted(math.prod(s) for s in large) == sorted(
        math.prod(s) for _, s in LARGE.values()
    )
    for other in ("all-to-all", "collective-permute"):
        assert f" {other}(" not in text


def computations(text: str) -> dict[str, str]:
    """The text of each computation of a module by its name."""
    parts = re.split(r"\n(?=(?:ENTRY )?%?[\w.\-]+ \([^\n]*\{\n)", text)
    return {re.match(r"(?:ENTRY )?%?([\w.\-]+)", p)[1]: p for p in parts[1:]}


@pytest.mark.parametrize("name", ["window", "guard"])
def test_a_call_that_takes_no_step_gathers_nothing(name):
    """Every gather is inside the body of the loop of 0 or 1 turns."""
    mesh, specs = mesh_of("data"), dict.fromkeys(LARGE, P())
    params = placed(trees.normal(LARGE, 0), mesh, specs)
    tx = zero1_of(optadamw.adamw(0.1, **KEPT[name]), params)
    text = compiled(tx, params, tx.init(params), params)
    bodies = set(re.findall(r"body=%?([\w.\-]+)", text))
    inside = [
        name for name, part in computations(text).items() if shapes_gathered(part)
    ]
    assert inside and set(inside) <= bodies
    params_after = re.search(r"ENTRY [^\n]*", text)[0]
    assert "bf16[256,512]" in params_after  # the carry is the whole parameter


def test_a_donated_step_takes_the_memory_of_its_arguments():
    mesh, specs = mesh_of("data"), dict.fromkeys(LARGE, P())
    params = placed(trees.normal(LARGE, 0), mesh, specs)
    tx = zero1_of(optadamw.adamw(0.1, skip_nonfinite=True), params)
    state = tx.init(params)
    step = jax.jit(lambda p, s, g: tx.step(g, s, p), donate_argnums=(0, 1))
    memory = step.lower(params, state, params).compile().memory_analysis()
    assert memory.alias_size_in_bytes == per_device((params, state))


def test_gradients_that_are_summed_are_not_gathered():
    """A backward pass and the step in one program, where sums are over the axis."""
    mesh, specs = mesh_of("data"), dict.fromkeys(LARGE, P())
    params = placed(trees.normal(LARGE, 0), mesh, specs)
    tx = zero1_of(optadamw.adamw(0.1, accumulate_steps=2), params)
    batch = jax.device_put(jnp.ones((16, 256)), NamedSharding(mesh, P("data")))

    def loss(params: Any, batch: Any) -> Any:
        hidden = jnp.tanh(batch.astype(jnp.bfloat16) @ params["w"])
        return jnp.sum((hidden @ params["v"]).astype(jnp.float32) ** 2)

    def train_step(params: Any, state: Any, batch: Any) -> Any:
        params, state = tx.step(jax.grad(loss)(params, batch), state, params)
        return params, state

    step = jax.jit(train_step, donate_argnums=(0, 1))
    text = step.lower(params, tx.init(params), batch).compile().as_text()
    large = [s for _, s in shapes_gathered(text) if math.prod(s) > 1024]
    assert len(large) == len(LARGE)


# --- Calls ---------------------------------------------------------------------------


@each_kind
def test_init_under_jit_eager_steps_updates_and_flush(kind):
    mesh = mesh_of("data", kind)
    params = placed(trees.normal(KINDS, 0), mesh, WHOLE)
    grads = placed(trees.normal(KINDS, 1), mesh, WHOLE)
    plain = optadamw.adamw(0.1, accumulate_steps=2, mu_dtype=FORM)
    tx = zero1_of(plain, params)
    state = tx.init(params)
    optadamw.check_sharding(jax.jit(tx.init)(params), layout_of(state))
    for method in (tx.step, jax.jit(tx.step), jax.jit(tx.update)):
        after, kept = method(grads, state, params)
        optadamw.check_sharding(after, layout_of(params))
        optadamw.check_sharding(kept, layout_of(state))
    moved, rest = jax.jit(tx.flush)(kept, params)
    other, _ = jax.jit(plain.flush)(
        jax.device_put(kept, optadamw.state_sharding(plain, params)), params
    )
    optadamw.check_sharding((moved, rest), layout_of((params, state)))
    assert trees.largest_difference(jax.device_get(moved), jax.device_get(other)) < 1e-6


def test_an_average_is_swapped_and_a_state_restored():
    mesh = mesh_of("data")
    params = placed(trees.normal(KINDS, 0), mesh, WHOLE)
    tx = optadamw.adamw(0.1, ema_decay=0.9, zero1="data")
    plain = optadamw.adamw(0.1, ema_decay=0.9)
    state = tx.init(params)
    averaged, _ = optadamw.swap_ema(state, params)
    optadamw.check_sharding(averaged, params)
    optadamw.check_sharding(optadamw.ema_of(state, like=params), params)
    # New arrays, which JAX may put anywhere, tell dtypes and no layout.
    template = trees.normal(KINDS, 0)
    optadamw.check_sharding(optadamw.ema_of(state, like=template), state.ema)
    after, stepped = tx.step(params, state, params)
    final = optadamw.finalize(stepped, after)
    optadamw.check_sharding(final, params)
    tx.init(final)  # it refuses parameters that the axis divides
    saved = optadamw.checkpoint.to_portable(plain, plain.init(params))
    divided, report = optadamw.checkpoint.restore(tx, params, saved)
    optadamw.check_sharding(divided, layout_of(state))
    assert report.is_whole and report.moved
    saved = optadamw.checkpoint.to_portable(tx, divided)
    whole, report = optadamw.checkpoint.restore(plain, params, saved)
    assert report.is_whole and all(
        x.sharding.is_fully_replicated for x in jax.tree.leaves(whole)
    )
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params
    )
    divided, _ = optadamw.checkpoint.restore(tx, shapes, saved)
    optadamw.check_sharding(divided, layout_of(state))


# --- Refusals ------------------------------------------------------------------------


def test_what_cannot_be_divided_is_reported_or_refused():
    params = placed({"odd": jnp.ones(7)}, mesh_of("data"), {"odd": P()})
    with pytest.warns(UserWarning, match="'odd': data divides none"):
        state = optadamw.adamw(0.1, zero1="data").init(params)
    assert state.mu["odd"].sharding.is_fully_replicated
    strict = optadamw.with_zero1(optadamw.adamw(0.1), "data", on_whole="raise")
    with pytest.raises(ValueError, match="Leaf 'odd': data divides none"):
        strict.init(params)


def test_an_unknown_layout_is_refused_and_never_ignored():
    params = placed(trees.normal(KINDS, 0), mesh_of("data"), WHOLE)
    tx = optadamw.adamw(0.1, zero1="data")
    state = tx.init(params)
    for call in (
        lambda: jax.jit(tx.step)(params, state, params),
        lambda: jax.jit(tx.init)(params),
    ):
        with pytest.raises(ValueError, match=r"Leaf 'bias': its layout.*zero1_layout"):
            call()
    with pytest.raises(ValueError, match=r"`params` is missing.*with_zero1"):
        tx.update(params, state)
    other = optadamw.adamw(0.1, zero1="data", zero1_layout=[params["bias"].sharding])
    with pytest.raises(ValueError, match="1 shardings, and there are 4"):
        jax.jit(other.init)(params)


@pytest.mark.parametrize(
    ("axis", "message"),
    [("fsdp", "no axis 'fsdp'"), ("model", "divided over 'model' already")],
)
def test_an_axis_that_is_missing_or_taken_is_refused(axis, message):
    params = placed(trees.normal(KINDS, 0), mesh_of("data x model"), TP)
    with pytest.raises(ValueError, match=f"Leaf '.*{message}"):
        optadamw.adamw(0.1, zero1=axis).init(params)


def test_a_missing_axis_is_named_under_jit_too():
    """The mesh is known there, and the layout is not: the axis is named first."""
    params = placed(trees.normal(KINDS, 0), mesh_of("data"), WHOLE)
    tx = optadamw.adamw(0.1, zero1="fsdp")
    with pytest.raises(ValueError, match="Leaf 'bias': its mesh has no axis 'fsdp'"):
        jax.jit(tx.init)(params)


def test_parameters_on_no_mesh_are_refused():
    with pytest.raises(TypeError, match=r"Leaf 'w': .*on no mesh"):
        optadamw.adamw(0.1, zero1="data").init({"w": jnp.ones(8)})


BAD = {
    "axis": ((3,), {}, TypeError, "`axis` must be"),
    "layout": (
        ("data",),
        {"layout": {"w": P()}},
        TypeError,
        "`layout` must be a tree of .* at 'w'",
    ),
    "word": (("data",), {"on_whole": "warn"}, ValueError, "`on_whole` must be"),
}


@pytest.mark.parametrize(("args", "named", "error", "message"), BAD.values(), ids=BAD)
def test_bad_arguments_are_refused(args, named, error, message):
    with pytest.raises(error, match=message):
        optadamw.with_zero1(optadamw.adamw(0.1), *args, **named)


def test_it_is_used_once_and_around_this_library():
    tx = optadamw.adamw(0.1, zero1="data")
    assert tx == optadamw.with_zero1(optadamw.adamw(0.1))
    with pytest.raises(ValueError, match="with_zero1 already"):
        optadamw.with_zero1(tx)
    with pytest.raises(TypeError, match="`inner` must be"):
        optadamw.with_zero1(None)
    with pytest.raises(TypeError, match="`zero1` must be"):
        optadamw.adamw(0.1, zero1=True)
    with pytest.raises(
        ValueError, match="`zero1_layout` has no effect without `zero1`"
    ):
        optadamw.adamw(0.1, zero1_layout={})
