"""Steps compiled for TPUs and GPUs that are not here; skipped without a compiler."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import optadamw
from benchmarks.topology import layouts, measure, placed
from benchmarks.topology.cases import CASES, shapes
from optadamw.reports.topology import missing_compiler, topology_mesh

COMPILERS = {"v5e": "libtpu", "v6e": "libtpu", "h100": "JAX's plugin for CUDA"}
ALONE = ("v5e:1x1", "h100:1x1x1")
SIXTEEN = ("v5e:4x4", "h100:1x2x8")


@pytest.fixture(autouse=True)
def without_cache():
    """JAX cannot read a program back for devices that are not here, and warns."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", before)


@functools.cache
def mesh_of(name):
    if missing_compiler(name):
        pytest.skip(f"{COMPILERS[name.partition(':')[0]]} is not installed")
    return topology_mesh(name)


@functools.cache
def compiled(name, case):
    return measure.case(mesh_of(name), CASES[case], shapes(quick=True))


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize(
    ("case", "ideal", "in_loops"),
    [
        ("adamw", 28, 0),
        ("adamw, Optax", 28, 0),
        ("clip", 32, 0),
        ("clip + EMA", 40, 0),
        ("AMSGrad", 36, 0),
        ("guard + clip + EMA", 40, 36),
        ("window of 4", 40, 28),  # 12 in the calls that only accumulate
        ("commit stochastic", 22, 0),
        ("mixed", 26, 0),
        ("mixed, 24 bits", 24, 0),
        ("kahan", 26, 0),
        ("16-bit moments", 20, 0),
        ("8-bit moments", 20.125, None),
        ("compact", 12.125, None),
    ],
)
def test_a_step_moves_each_byte_once(name, case, ideal, in_loops):
    found = compiled(name, case)
    assert found["ideal"] == pytest.approx(ideal, abs=0.005)
    assert found["bytes"] == pytest.approx(ideal, abs=0.005)
    assert found["most_bytes"] == pytest.approx(ideal, abs=0.005)
    if in_loops is not None:
        assert found["bytes_in_loops"] == pytest.approx(in_loops, abs=0.005)
    assert found["temporaries"] < 0.05
    assert found["copies"] == 0
    assert found["unaliased_bytes"] == 0


@pytest.mark.parametrize("name", ["v5e:1x1", "v6e:1x1"])
@pytest.mark.parametrize("case", ["8-bit moments", "compact", "compact + clip + EMA"])
def test_kernels_are_no_longer_programs_than_the_float32_step(name, case):
    """And so are compiled as fast: without parts of tiles 1.4 to 2.5 times."""
    length = compiled(name, "guard")["program_bytes"]
    assert compiled(name, case)["program_bytes"] < 1.2 * length


@pytest.mark.parametrize("name", ["v5e:1x1", "v6e:1x1"])
@pytest.mark.parametrize(("case", "most"), [("adamw", 1.11), ("clip", 1.23)])
def test_programs_are_hardly_longer_than_those_of_optax(name, case, most):
    """And are compiled as fast. The clip has a second sum, for a norm that overflows.

    With an idle selection of zero denominators AdamW's would be 1.13 times as long.
    """
    length = compiled(name, f"{case}, Optax")["program_bytes"]
    assert compiled(name, case)["program_bytes"] < most * length


@pytest.mark.parametrize("name", ALONE)
def test_a_copy_is_noticed(name):
    """The plain step is exactly ideal; one that keeps the old parameters is not."""
    mesh = mesh_of(name)
    params = placed.on(mesh, shapes(quick=True))
    tx = optadamw.adamw(1e-3)
    state = placed.on(mesh, jax.eval_shape(tx.init, params))

    def step(carry, grads):
        return tx.step(grads, carry[1], carry[0])

    def copying(carry, grads):
        return *step(carry, grads), carry[0]

    plain = measure.module(step, (params, state), params, mesh)
    assert f"{plain['bytes']:.2f}" == "28.00"
    copied = measure.module(copying, (params, state), params, mesh)
    # Either the parameters are read once and written twice, or copied before.
    assert 31.9 < copied["bytes"] < 36.1
    assert copied["unaliased_bytes"] >= 4 * placed.count(params)


@pytest.mark.parametrize("name", SIXTEEN)
@pytest.mark.parametrize(
    ("case", "reductions"), [("adamw", 0), ("clip", 1), ("guard + clip + EMA", 1)]
)
def test_sharded_steps_reduce_a_norm_once_and_gather_nothing(name, case, reductions):
    found = compiled(name, case)
    assert found["collectives"] == ({"all-reduce": reductions} if reductions else {})
    assert sum(found["collective_bytes_per_device"].values()) <= 16
    assert found["temporaries"] < 0.3


@pytest.mark.parametrize("name", SIXTEEN)
@pytest.mark.parametrize(
    "case",
    [
        "8-bit moments",
        "compact",
        "compact + clip + EMA",  # with a guard, as all in 8 bits
        "8-bit moments, stated",
        "compact, stated",
    ],
)
def test_shards_run_as_kernels(name, case):
    """Over Auto axes, with shardings that the user states or that arguments show."""
    found = compiled(name, case)
    assert found["bytes"] <= 1.01 * found["ideal"]
    assert found["temporaries"] < 0.2
    assert found["collectives"] == {"all-reduce": 1}
    assert found["copies"] == 0 and found["unaliased_bytes"] == 0


@pytest.mark.parametrize("name", SIXTEEN)
def test_kernels_of_shards_ask_for_no_collective_of_their_own(name):
    """Behind a backward pass, which divides the gradients as it likes."""
    mesh = mesh_of(name)
    rows, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    leaf = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.bfloat16)
    params = {"w": leaf((1024, 512), sharding=rows), "b": leaf((512,), sharding=whole)}
    batch = leaf((4 * mesh.size, 1024), sharding=rows)

    def loss(params, x):
        return jnp.mean(jnp.square(x @ params["w"] + params["b"]))

    def made(tx):
        def step(params, state, batch):
            return tx.step(jax.grad(loss)(params, batch), state, params)

        state = optadamw.state_shapes(tx, params)
        return measure.module(
            lambda carry, batch: step(*carry, batch), (params, state), batch, mesh
        )

    tx = optadamw.adamw(1e-3, precision="compact")
    found, plain = made(tx), made(optadamw.with_pallas(tx, enabled=False))
    assert found["collectives"] == plain["collectives"]
    assert found["copies"] <= plain["copies"]


EIGHT = optadamw.blockwise()
BUFFERS = {
    "float32": {},
    "8 bits": {"mu_dtype": EIGHT, "nu_dtype": EIGHT},
    "mixed, EMA, window": {
        "precision": "mixed",
        "ema_decay": 0.99,
        "accumulate_steps": 2,
    },
    "AMSGrad, kahan": {"amsgrad": True, "commit": "kahan"},
    "compact": {"precision": "compact", "skip_spikes": True},
}


@pytest.mark.parametrize("name", SIXTEEN)
@pytest.mark.parametrize("options", BUFFERS)
def test_a_jitted_init_replicates_nothing(name, options):
    mesh = mesh_of(name)
    tx = optadamw.adamw(1e-3, **BUFFERS[options])
    narrow = jnp.bfloat16 if "float32" not in options else jnp.float32
    first = jax.NamedSharding(mesh, jax.P("data"))
    last = jax.NamedSharding(mesh, jax.P(None, "data"))
    params = {
        "a": jax.ShapeDtypeStruct((1024, 512), jnp.float32, sharding=first),
        "b": jax.ShapeDtypeStruct((512, 2048), narrow, sharding=last),
    }
    init = jax.jit(tx.init).lower(params).compile()
    made = jax.tree.leaves_with_path(jax.eval_shape(tx.init, params))
    for (path, what), where in zip(
        made, jax.tree.leaves(init.output_shardings), strict=True
    ):
        if what.size > 1000:  # without the window of the spike guard
            assert not where.is_fully_replicated, jax.tree_util.keystr(path)
            assert mesh.size * math.prod(where.shard_shape(what.shape)) == what.size


@pytest.mark.parametrize("name", [*ALONE, *SIXTEEN])
@pytest.mark.parametrize(
    "options", [{}, {"skip_nonfinite": True, "clip_global_norm": 1.0}], ids=str
)
def test_buffers_in_the_host_reach_the_device_by_parts(name, options):
    """Two of 16 parts of the moments are on the device at once: one old, one new.

    XLA for GPUs, which gets no loops, prefetches a leaf.
    """
    mesh = mesh_of(name)
    tx = optadamw.adamw(1e-3, offload=("mu", "nu"), **options)
    divided = NamedSharding(mesh, P(mesh.axis_names))
    rows = 1024 * mesh.size
    leaf = jax.ShapeDtypeStruct((rows, 8192), jnp.float32, sharding=divided)
    params = {f"kernel_{i}": leaf for i in range(16)}
    state = optadamw.state_shapes(tx, params)
    shardings = jax.tree.map(lambda x: x.sharding, (params, state))
    step = jax.jit(
        lambda params, state, grads: tuple(tx.step(grads, state, params)),
        donate_argnums=(0, 1),
        out_shardings=shardings,
    )
    found = step.lower(params, state, params).compile().memory_analysis()
    share = 16 * 1024 * 8192
    assert found.host_argument_size_in_bytes >= 8 * share
    assert found.host_alias_size_in_bytes >= 8 * share
    assert found.temp_size_in_bytes < (1.1 if name[0] == "v" else 1.3) * share


@pytest.mark.parametrize("name", ["v5e:4x4", "h100:1x1x8"])
def test_layouts_hold_what_they_divide(name):
    """Bytes of a device by the definition of each layout, and its collectives."""
    mesh_of(name)  # skips without a compiler
    result = layouts.run(name, True, lambda result: None, lambda text: None)
    devices, count = result["devices"], result["parameters"]
    shards = result["mesh"]["fsdp"]
    wanted = {
        "replicated": (4, 8),
        "ZeRO-1": (4, 8 / devices),
        "FSDP": (4 / devices, 8 / devices),
        "FSDP x ZeRO-1": (4 / shards, 8 / devices),
        "ZeRO-1, offload": (4, 0),
        "FSDP, offload": (4 / devices, 0),
    }
    assert list(result["layouts"]) == list(wanted)
    for label, (parameters, state) in wanted.items():
        found = result["layouts"][label]
        assert found["parameter_bytes"] == parameters * count
        assert found["state_bytes"] == pytest.approx(state * count, abs=64)
        host = 8 / devices if "offload" in label else 0
        assert found["host_state_bytes"] == pytest.approx(host * count, rel=1e-3)
        gathered = found["step"].get("all-gather", {"count": 0, "bytes": 0})
        is_gathered = "ZeRO-1" in label
        assert gathered["bytes"] == is_gathered * found["parameter_bytes"]
        assert set(found["step"]) <= {"all-gather", "all-reduce"}
        assert found["step"].get("all-reduce", {"bytes": 0})["bytes"] <= 8
