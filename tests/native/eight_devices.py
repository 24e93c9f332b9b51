"""Kernels on the parts of eight devices, with the bits and collectives of XLA's path.

Run by `test_devices.py` under `XLA_FLAGS=--xla_force_host_platform_device_count=8`.
"""

import contextlib
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optadamw
from tests.native import running
from tests.support import trees

LEAVES = {
    "matrix": ((256, 24), P("data", "model")),
    "columns": ((64, 16), P(None, ("model", "data"))),
    "vector": ((64,), P("model")),
    "stack": ((3, 64, 8), P(None, "model", "data")),
    "whole": ((9, 5), P()),
    "number": ((), P()),
}
EIGHT = optadamw.blockwise(min_size=0)
OPTIONS = {
    "plain": {},
    "all on": {"amsgrad": True, "ema_decay": 0.9, "skip_nonfinite": True},
    "clip": {"clip_global_norm": 0.1},
    "8 bits": {"mu_dtype": EIGHT, "nu_dtype": EIGHT},
    "kahan": {"commit": "kahan"},
    "stochastic": {
        **{"commit": "stochastic", "nu_dtype": optadamw.stochastic("bfloat16")},
        "seed": 3,
    },
    "compact": {"precision": "compact"},
}
NARROW = ("kahan", "stochastic", "compact")
KINDS = ("Auto", "Explicit")
COLLECTIVES = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"


def sharding_of(kind, spec):
    types = (getattr(AxisType, kind),) * 2
    return NamedSharding(jax.make_mesh((4, 2), ("data", "model"), types), spec)


def placed(kind, leaves=None, dtype=jnp.float32, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: jax.device_put(
            jnp.asarray(rng.normal(size=shape), dtype), sharding_of(kind, spec)
        )
        for name, (shape, spec) in (leaves or LEAVES).items()
    }


def pair(**options):
    """A transformation run by XLA, and by kernels."""
    return [
        optadamw.adamw(1e-2, weight_decay=0.1, kernel=kernel, **options)
        for kernel in ("xla", "native")
    ]


def in_place(tx):
    return jax.jit(lambda p, s, g: tuple(tx.step(g, s, p)), donate_argnums=(0, 1))


def calls(text):
    return text.count('custom_call_target="optadamw_step_')


def collectives(text):
    return Counter(re.findall(rf"= .*\b({COLLECTIVES})\(", text))


def copied(text):
    """The shapes that are copied, apart from numbers and counters."""
    return re.findall(r"= ((?:f|bf|u)\d+\[\d[^ ]*) copy\(", text)


def two_steps(step, params, state):
    params, state = jax.tree.map(jnp.copy, (params, state))
    for seed in (1, 2):
        grads = jax.tree.map(lambda x, k=seed: jnp.sin(x * (k + 1)), params)
        params, state = step(params, state, grads)
    return params, state


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_device_steps_its_part(kind, name):
    """In place, without a copy, and with the bits and shardings of XLA's path."""
    params = placed(kind, dtype=jnp.bfloat16 if name in NARROW else jnp.float32)
    ends, modules = [], []
    for tx in pair(**OPTIONS[name]):
        state, step = tx.init(params), in_place(tx)
        modules.append(step.lower(params, state, params).compile())
        ends.append(two_steps(step, params, state))
    trees.assert_same_bits(*ends)
    xla, native = (jax.tree.map(lambda x: x.sharding, end) for end in ends)
    assert native == xla
    xla, native = (module.as_text() for module in modules)
    assert calls(native) and not calls(xla)
    assert collectives(native) == collectives(xla)
    assert not copied(native)
    xla, native = (module.memory_analysis() for module in modules)
    assert native.alias_size_in_bytes == xla.alias_size_in_bytes
    assert native.temp_size_in_bytes < 2**13


FAULTS = {
    "the part of the device": ("device[i] * (uint32_t)own[i]", "0u"),
    "the row of the part": ("(uint32_t)(row % own[2 * i]) *", "0u *"),
    "the row of a block": ("+ *(const uint32_t *)s[SCALARS + 2]", ""),
    "where neighbours end": ("left < n ? left : n", "n"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_the_places_of_random_bits_is_noticed(name, monkeypatch):
    blocks = "block" in name
    shape = (256, 24) if blocks else (64, 16)
    # The chunks of a vector would hide where neighbours end.
    params = placed("Auto", {"w": (shape, P("data", "model"))}, jnp.bfloat16)
    options = OPTIONS["compact" if blocks else "stochastic"]
    xla, native = (optadamw.with_seed(tx, 5) for tx in pair(commit="stochastic"))
    if blocks:
        xla, native = pair(**options)
    expected = two_steps(in_place(xla), params, xla.init(params))
    jax.clear_caches()
    with running.planted(monkeypatch, *FAULTS[name]):
        found = two_steps(in_place(native), params, native.init(params))
    with pytest.raises(AssertionError):
        trees.assert_same_bits(found, expected)
    jax.clear_caches()


def test_the_bits_are_those_of_one_device():
    """The random bits of an element do not depend on how its leaf is divided."""
    leaves = {k: x for k, x in LEAVES.items() if k != "number"}
    _, tx = pair(**OPTIONS["compact"])
    params = placed("Auto", leaves, jnp.bfloat16)
    whole = jax.device_put(params, jax.devices()[0])
    given = {"grad_norm": jnp.float32(1.0)}
    ends = [
        jax.jit(lambda p: tx.step(p, tx.init(p), p, **given))(x)
        for x in (params, whole)
    ]
    assert calls(jax.jit(tx.step).lower(whole, tx.init(whole), whole).as_text()) == 0
    trees.assert_same_bits(*ends)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_loops_conditions_maps_and_derivatives(kind, inside):
    leaves = {name: LEAVES[name] for name in ("matrix", "vector", "number")}
    params = placed(kind, leaves)
    txs = pair(ema_decay=0.9)
    state = txs[0].init(params)

    def scanned(tx, p, s):
        def turn(carry, _):
            return tuple(tx.step(p, carry[1], carry[0])), None

        return lax.scan(turn, (p, s), length=2)[0]

    def twice(step, p, s):
        made = step(p, s, p)
        return tuple(step(p, made[1], made[0]))

    def chosen(tx, p, s):
        go = p["number"] < 9
        return lax.cond(go, lambda: tuple(tx.step(p, s, p)), lambda: (p, s))

    def mapped(tx, p, s):
        return jax.vmap(lambda k: tx.step(jax.tree.map(lambda x: k * x, p), s, p))(
            jnp.arange(3.0)
        )

    def derived(tx, p, s):
        return jax.grad(
            lambda g: sum(jnp.sum(x * x) for x in tx.step(g, s, p)[0].values())
        )(p)

    with (
        jax.set_mesh(sharding_of(kind, P()).mesh)
        if inside
        else contextlib.nullcontext()
    ):
        for function, has_kernels in (
            *((scanned, True), (chosen, True)),
            *((mapped, False), (derived, False)),
        ):
            ends = []
            for tx in txs:
                step = jax.jit(lambda p, s, tx=tx, f=function: f(tx, p, s))
                ends.append(step(params, state))
            text = step.lower(params, state).compile().as_text()
            assert bool(calls(text)) == has_kernels, function
            assert not re.search(r"= .*all-gather\(", text)
            if function is scanned:
                # XLA contracts other products where two steps are one program.
                ends[0] = twice(jax.jit(txs[0].step), params, state)
            trees.assert_same_bits(*ends)
        ends = [tx.step(params, state, params) for tx in txs]
        trees.assert_same_bits(*ends)
    exported = jax.export.export(jax.jit(txs[1].step))(params, state, params)
    assert "optadamw_" not in exported.mlir_module()


CUT = {"cut": ((128, 24), P(("data", "model"))), "matrix": LEAVES["matrix"]}
"""Four blocks over eight devices; and a leaf that is not cut."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_sharding_that_cuts_blocks_is_left_to_xla(kind):
    params = placed(kind, CUT)
    xla, native = pair(**OPTIONS["8 bits"])
    auto = optadamw.adamw(1e-2, weight_decay=0.1, kernel="auto", **OPTIONS["8 bits"])
    state = xla.init(params)
    text = in_place(auto).lower(params, state, params).compile().as_text()
    assert calls(text) == 1
    trees.assert_same_bits(
        *(two_steps(in_place(t), params, state) for t in (auto, xla))
    )
    with pytest.raises(
        ValueError, match=r"cuts its blocks|equal parts of whole blocks"
    ):
        in_place(native).lower(params, state, params)
    line = optadamw.describe(auto, params).splitlines()[-1]
    assert "XLA for 1 parameter (its sharding cuts" in line


ROWS, COLUMNS = P(("data", "model")), P(None, "data")
UNLIKE = {"rows": ((64, 32), ROWS), "columns": ((64, 32), COLUMNS)}
"""Two parameters of one shape, of which arguments do not show how each is divided."""


def test_arguments_that_do_not_show_how_a_leaf_is_divided():
    """On Auto axes XLA then runs it under jit; `jit_step` states how it lies."""
    params = placed("Auto", UNLIKE)
    xla, native = pair()
    auto = optadamw.with_kernels(optadamw.adamw(1e-2, weight_decay=0.1))
    state = xla.init(params)
    text = jax.jit(auto.step).lower(params, state, params).compile().as_text()
    assert not calls(text) and not collectives(text)
    shape = re.escape("a parameter of shape [64, 32]")
    with pytest.raises(ValueError, match=f"do not show how {shape}.*jit_step"):
        jax.jit(native.step).lower(params, state, params)
    text = native.jit_step.lower(params, state, params).compile().as_text()
    assert calls(text) == 1 and not collectives(text)
    expected = two_steps(in_place(xla), params, state)

    def step(params, state, grads):
        return tuple(native.jit_step(grads, state, params))

    trees.assert_same_bits(two_steps(step, params, state), expected)
    # Known by their types on Explicit axes.
    params = placed("Explicit", UNLIKE)
    text = in_place(native).lower(params, native.init(params), params).as_text()
    assert "manual" in text


def test_buffers_that_are_divided_otherwise_are_left_to_xla():
    params = placed("Explicit", {"w": ((64, 32), P())})
    mu = placed("Explicit", {"w": ((64, 32), COLUMNS)})
    xla, native = pair()
    auto = optadamw.with_kernels(optadamw.adamw(1e-2, weight_decay=0.1))
    state = xla.init(params)._replace(mu=mu)
    text = in_place(auto).lower(params, state, params).compile().as_text()
    assert not calls(text)
    ends = [tx.step(params, state, params) for tx in (auto, xla)]
    trees.assert_same_bits(*ends)
    with pytest.raises(ValueError, match="divided in different ways"):
        in_place(native).lower(params, state, params)


@pytest.mark.parametrize("name", ["plain", "all on", "8 bits"])
@pytest.mark.parametrize("kind", KINDS)
def test_zero1_steps_the_parts_of_its_state(kind, name):
    spec = P(None, "model")
    home = {"w": sharding_of(kind, spec), "b": sharding_of(kind, P())}
    params = placed(kind, {"w": ((256, 32), spec), "b": ((256,), P())})
    ends, texts = [], []
    for tx in pair(zero1="data", zero1_layout=home, **OPTIONS[name]):
        state, step = tx.init(params), in_place(tx)
        texts.append(step.lower(params, state, params).compile().as_text())
        ends.append(two_steps(step, params, state))
    trees.assert_same_bits(*ends)
    xla, native = texts
    assert calls(native) and collectives(native) == collectives(xla)
    xla, native = (jax.tree.map(lambda x: x.sharding, end) for end in ends)
    assert native == xla


def test_by_default_steps_are_those_of_xla():
    """Also those of one device: how arrays lie is not known when a step is traced."""
    tx = optadamw.adamw(1e-2)
    params = {"w": jnp.ones((16, 12))}
    text = jax.jit(tx.step).lower(params, tx.init(params), params).compile().as_text()
    assert not calls(text)
    assert optadamw.describe(tx, params).endswith("\npass: XLA (8 devices)")


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_run_inside_shard_map(kind):
    leaves = {name: LEAVES[name] for name in ("matrix", "vector", "number")}
    params, specs = placed(kind, leaves), {n: spec for n, (_, spec) in leaves.items()}
    # The guard's check differs between the parts, so the norm is left out.
    xla, native = pair(ema_decay=0.9, skip_nonfinite=True)
    state = jax.jit(xla.init)(params)
    places = jax.tree.map(lambda x: x.sharding.spec, state)
    ends = []
    for tx in (native, xla):
        mapped = jax.shard_map(
            lambda g, s, p, tx=tx: tx.step(g, s, p),
            mesh=sharding_of(kind, P()).mesh,
            in_specs=(specs, places, specs),
            out_specs=(specs, places),
            check_vma=False,
        )
        text = jax.jit(mapped).lower(params, state, params).compile().as_text()
        assert bool(calls(text)) == (tx is native)
        assert not re.search(r"= .*all-gather\(", text)
        ends.append(jax.jit(mapped)(params, state, params))
    trees.assert_same_bits(*ends)


def test_inside_a_shard_map_over_some_axes_xla_runs_the_leaves():
    params = placed("Auto", {"w": LEAVES["matrix"]})
    mesh = sharding_of("Auto", P()).mesh
    for kernel in ("auto", "native"):
        tx = optadamw.adamw(1e-2, kernel=kernel)
        mapped = jax.shard_map(
            lambda p, tx=tx: tx.step(p, tx.init(p), p)[0],
            mesh=mesh,
            in_specs=P("data"),
            out_specs=P("data"),
            axis_names={"data"},
        )
        if kernel == "native":
            with pytest.raises(ValueError, match="XLA divides its arrays"):
                jax.jit(mapped).lower(params)
        else:
            assert not calls(jax.jit(mapped).lower(params).compile().as_text())


def test_axes_of_one_device_need_no_name_in_a_shard_map():
    types = (AxisType.Auto,) * 2
    mesh = jax.make_mesh((8, 1), ("data", "model"), axis_types=types)
    home = NamedSharding(mesh, P("data"))
    params = {"w": jax.device_put(jnp.sin(jnp.arange(256.0)).reshape(64, 4), home)}
    ends = []
    for kernel in ("xla", "native"):
        tx = optadamw.adamw(1e-2, ema_decay=0.9, kernel=kernel)
        state = jax.jit(tx.init)(params)
        places = jax.tree.map(lambda x: x.sharding.spec, state)
        mapped = jax.shard_map(
            lambda s, p, tx=tx: tx.step(p, s, p),
            mesh=mesh,
            in_specs=(places, P("data")),
            out_specs=(P("data"), places),
            axis_names={"data"},
        )
        step = jax.jit(mapped).lower(state, params).compile()
        assert bool(calls(step.as_text())) == (kernel == "native")
        ends.append(step(state, params))
    trees.assert_same_bits(*ends)


def test_auto_axes_beside_explicit_ones_are_left_to_xla():
    types = (AxisType.Auto, AxisType.Explicit)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=types)
    home = NamedSharding(mesh, P("data", "model"))
    params = {"w": jax.device_put(jnp.ones((64, 8)), home)}
    auto = optadamw.adamw(1e-2, kernel="auto")
    native = optadamw.adamw(1e-2, kernel="native")
    state = auto.init(params)
    assert not calls(auto.jit_step.lower(params, state, params).compile().as_text())
    reason = "its mesh has Auto axes beside Explicit ones"
    assert optadamw.describe(auto, params).endswith(f"\npass: XLA ({reason})")
    with pytest.raises(ValueError, match=reason):
        native.jit_step.lower(params, state, params)
