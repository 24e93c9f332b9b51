"""The planner of memory: what it says is what XLA takes."""

import functools
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optadamw
import optadamw.cli.main as cli
from optadamw import blockwise, memory_plan, stochastic

SIXTEEN = stochastic("bfloat16")
EIGHT = {"mu_dtype": blockwise(), "nu_dtype": blockwise()}
WIDE, NARROW = jnp.float32, jnp.bfloat16

PLANS = {
    "full": (WIDE, {}),
    "mixed": (NARROW, {"precision": "mixed"}),
    "compact": (NARROW, {"precision": "compact", "ema_decay": 0.9}),
    "8-bit": (WIDE, EIGHT),
    "16-bit": (WIDE, {"mu_dtype": SIXTEEN, "nu_dtype": SIXTEEN}),
    "everything": (
        NARROW,
        EIGHT
        | {
            **{"commit": "kahan", "amsgrad": True, "ema_decay": 0.9},
            **{"accumulate_steps": 2, "clip_global_norm": 1.0, "stats": True},
        },
    ),
}
each_plan = pytest.mark.parametrize("name", PLANS)
BLOCKS = ("compact", "8-bit", "everything")
"""The plans whose moments are in blocks of 8 bits."""

SHAPES = {"kernel": (512, 256), "stack": (4, 64, 128), "small": (24,), "scalar": ()}


def make(name):
    dtype, options = PLANS[name]
    shapes = {k: jax.ShapeDtypeStruct(s, dtype) for k, s in SHAPES.items()}
    return optadamw.adamw(1e-3, **options), shapes


def nbytes(tree):
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def compiled(tx, shapes):
    step = tx.jit_step.lower(shapes, tx.init(shapes), shapes)
    return step.compile().memory_analysis()


def arguments(plan):
    """The bytes of what a step is given, on one device."""
    return plan.persistent.per_device + plan.shares["gradients"].per_device


# --- One device ----------------------------------------------------------------------


@each_plan
def test_a_plan_is_what_xla_reports(name):
    tx, shapes = make(name)
    plan, memory = memory_plan(tx, shapes), compiled(tx, shapes)
    given = memory.argument_size_in_bytes
    assert arguments(plan) == pytest.approx(given, rel=0.01)
    assert plan.temporaries == pytest.approx(memory.temp_size_in_bytes, rel=0.01)
    peak = given + memory.temp_size_in_bytes
    assert plan.peak == pytest.approx(peak, rel=0.01)
    assert plan.platform == jax.default_backend()


@each_plan
def test_a_plan_is_what_the_arrays_take(name):
    tx, shapes = make(name)
    params = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), shapes)
    state = tx.init(params)
    for given in (shapes, params):
        plan = memory_plan(tx, given, temporaries=False)
        assert plan.count == sum(math.prod(s) for s in SHAPES.values())
        assert plan.devices == 1
        assert plan.shares["parameters"].total == nbytes(params)
        assert plan.shares["gradients"].total == nbytes(params)
        assert plan.persistent.total == nbytes((params, state))
        assert plan.persistent.per_device == plan.persistent.total
        kept = {n: s.total for n, s in plan.shares.items()}
        for field in ("mu", "nu", "nu_max", "ema", "residual", "accumulator"):
            buffers = getattr(state, field), getattr(state, f"{field}_scales", None)
            assert kept.get(field, 0) == nbytes(buffers)
        assert plan.temporaries is None


LARGE = (1024, 1024)


@pytest.mark.parametrize("name", ["full", "compact", "8-bit", "16-bit"])
def test_no_temporary_has_the_size_of_a_large_leaf(name):
    """Barriers put the passes in order, if XLA's CPU backend keeps barriers."""
    dtype, options = PLANS[name]
    shapes = {f"kernel{i}": jax.ShapeDtypeStruct(LARGE, dtype) for i in range(4)}
    tx = optadamw.adamw(1e-3, clip_global_norm=1.0, **options)
    plan = memory_plan(tx, shapes)
    assert plan.temporaries is not None
    if jax.__version_info__ >= (0, 12):
        assert plan.temporaries < 4 * math.prod(LARGE)
        memory = compiled(tx, shapes)
        assert memory.alias_size_in_bytes >= nbytes((shapes, tx.init(shapes)))


def test_the_bytes_that_are_promised():
    plans = {}
    for name in ("full", "mixed", "compact", "8-bit", "16-bit"):
        dtype, options = PLANS[name]
        options = {k: v for k, v in options.items() if k != "ema_decay"}
        shapes = {"w": jax.ShapeDtypeStruct((4096, 4096), dtype)}
        tx = optadamw.adamw(1e-3, **options)
        plans[name] = memory_plan(tx, shapes, temporaries=False)
    kept = {name: p.persistent.total / p.count for name, p in plans.items()}
    assert kept["full"] == pytest.approx(12, abs=0.01)
    assert kept["mixed"] == pytest.approx(12, abs=0.01)
    assert kept["16-bit"] == pytest.approx(8, abs=0.01)
    assert kept["8-bit"] <= 6.1
    assert kept["compact"] <= 4.1
    moments = plans["8-bit"]
    assert moments.per_parameter("mu") + moments.per_parameter("nu") <= 2.1


def test_nothing_is_allocated():
    """Of a model that no machine holds."""
    shapes = {"w": jax.ShapeDtypeStruct((2**20, 2**20), jnp.bfloat16)}
    tx = optadamw.adamw(1e-3, precision="compact")
    plan = memory_plan(tx, shapes, temporaries=False)
    assert plan.count == 2**40
    assert plan.persistent.total <= 4.1 * 2**40


def test_a_plan_prints():
    tx, shapes = make("compact")
    with_temporaries, without = (
        str(memory_plan(tx, shapes, temporaries=asked)) for asked in (True, False)
    )
    count = sum(math.prod(s) for s in SHAPES.values())
    for text in (with_temporaries, without):
        assert text.startswith(f"{count:,} parameters on 1 device\n")
        for name in ("parameters", "gradients", "mu", "nu", "ema", "persistent"):
            assert re.search(rf"^{name} .*\d\.\d\d .*KiB", text, re.MULTILINE)
    assert "peak" in with_temporaries
    assert "peak" not in without


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((optax.adam(1e-3), {"w": jnp.ones(2)}), TypeError, "`tx` must be"),
        ((optadamw.adamw(1e-3), {"w": "x"}), TypeError, "w"),
        ((optadamw.adamw(1e-3), {}), ValueError, "`params` must be"),
        ((optadamw.adamw(1e-3), {"w": jnp.ones(2)}, 8), TypeError, "`mesh` must be"),
    ],
)
def test_what_is_no_plan(arguments, error, message):
    with pytest.raises(error, match=message):
        memory_plan(*arguments)


# --- Eight devices -------------------------------------------------------------------


def test_an_abstract_mesh_divides_each_leaf_by_its_largest_axis():
    tx, shapes = make("compact")
    one = memory_plan(tx, shapes, temporaries=False)
    plan = memory_plan(tx, shapes, AbstractMesh((8,), ("data",)))
    assert plan.devices == 8
    assert {n: s.total for n, s in plan.shares.items()} == {
        n: s.total for n, s in one.shares.items()
    }
    large = 512 * 256 + 4 * 64 * 128 + 24
    assert plan.shares["parameters"].per_device == 2 * (large // 8 + 1)
    assert plan.temporaries is not None
    whole = memory_plan(tx, shapes, AbstractMesh((4, 2), ("data", "model")))
    assert whole.shares == plan.shares
    uneven = memory_plan(tx, shapes, AbstractMesh((7,), ("data",)), temporaries=False)
    for share in uneven.shares.values():
        assert share.per_device == share.total


def test_a_sharding_of_ones_own_counts():
    tx, _ = make("8-bit")
    mesh = AbstractMesh((8,), ("data",))
    sharding = NamedSharding(mesh, P(None, "data"))
    kernel = jax.ShapeDtypeStruct((512, 256), jnp.float32, sharding=sharding)
    plan = memory_plan(tx, {"kernel": kernel}, mesh, temporaries=False)
    assert plan.shares["parameters"].per_device == 4 * 512 * 256 // 8
    assert plan.shares["mu"].total == 512 * 256 + 512 * 8
    assert plan.shares["mu"].per_device == (512 * 256 + 512 * 8) // 8


def test_single_axes_are_tried_if_all_together_do_not_fit():
    mesh = AbstractMesh((4, 6), ("data", "model"))
    shapes = {"w": jax.ShapeDtypeStruct((12, 5), jnp.float32)}
    plan = memory_plan(optadamw.adamw(0.1), shapes, mesh, temporaries=False)
    assert plan.shares["parameters"].per_device == 4 * 60 // 6


@each_plan
def test_a_state_divided_further(name):
    """ZeRO-1 on whole parameters, and beside FSDP over another axis."""
    tx, shapes = make(name)
    data = AbstractMesh((8,), ("data",))
    whole = {
        k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(data, P()))
        for k, x in shapes.items()
    }
    plain = memory_plan(tx, shapes, data, temporaries=False)
    plan = memory_plan(tx, whole, over="data", temporaries=False)
    bare = memory_plan(tx, shapes, data, over="data", temporaries=False)
    assert plan.shares == bare.shares
    assert plan.shares["parameters"].per_device == plan.shares["parameters"].total
    for buffer in ("mu", "nu"):
        further, fsdp = plan.shares[buffer], plain.shares[buffer]
        assert further.total == fsdp.total
        if name in BLOCKS:
            # ZeRO-1 rather cuts blocks than the last dimension, whose parts XLA's CPU
            # backend rounds otherwise; scales that the cut does not divide are whole.
            assert fsdp.per_device <= further.per_device <= 1.05 * fsdp.per_device
        else:
            assert further == fsdp
    assert plan.shares == memory_plan(optadamw.with_zero1(tx), whole).shares
    both = AbstractMesh((2, 4), ("data", "fsdp"))
    mixed = memory_plan(tx, shapes, both, over="data", temporaries=False)
    parameters = mixed.shares["parameters"]
    assert parameters.per_device == pytest.approx(parameters.total / 4, rel=0.01)
    assert mixed.shares["mu"].per_device == pytest.approx(
        mixed.shares["mu"].total / 8, rel=0.01
    )


def test_what_is_not_divided_is_a_note():
    mesh = AbstractMesh((8,), ("data",))
    plan = memory_plan(
        optadamw.adamw(0.1), {"odd": jnp.ones(7)}, mesh, over="data", temporaries=False
    )
    assert any("'odd': data divides none" in note for note in plan.notes)
    with pytest.raises(ValueError, match=r"Leaf 'odd'.*no axis 'fsdp'"):
        memory_plan(optadamw.adamw(0.1), {"odd": jnp.ones(7)}, mesh, over="fsdp")


def test_a_plan_for_256_devices_takes_no_second():
    """The shapes of a model of 7B: 32 layers, 291 leaves."""
    kinds = [(4096, 4096)] * 4 + [(4096, 11008)] * 3 + [(4096,)] * 2
    shapes = {f"{i}/{j}": kind for i in range(32) for j, kind in enumerate(kinds)}
    params = {
        k: jax.ShapeDtypeStruct(shape, jnp.bfloat16) for k, shape in shapes.items()
    }
    mesh = AbstractMesh((16, 16), ("data", "fsdp"))
    start = time.process_time()
    plan = memory_plan(
        optadamw.adamw(1e-4), params, mesh, over="data", temporaries=False
    )
    assert time.process_time() - start < 1
    assert plan.shares["mu"].per_device == plan.shares["mu"].total // 256


def on_eight_devices():
    """Run in a process of its own: prints for each plan what it says and what is."""
    found = {}
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs = {
        "rows": {"kernel": P("data"), "stack": P(None, "data")},
        "columns": {"kernel": P(None, "data"), "stack": P(None, None, "data")},
    }
    for layout, given in specs.items():
        for name in ("full", "compact") if layout == "rows" else ("8-bit",):
            dtype, options = PLANS[name]
            tx = optadamw.adamw(1e-3, **options)
            shardings = {k: NamedSharding(mesh, given.get(k, P())) for k in SHAPES}
            shapes = {
                k: jax.ShapeDtypeStruct(s, dtype, sharding=shardings[k])
                for k, s in SHAPES.items()
            }
            plan = memory_plan(tx, shapes, mesh)
            params = {
                k: jax.device_put(jnp.ones(s, dtype), shardings[k])
                for k, s in SHAPES.items()
            }
            state = tx.init(params)
            device = jax.devices()[0]
            held = sum(
                shard.data.nbytes
                for x in jax.tree.leaves((params, params, state))
                for shard in x.addressable_shards
                if shard.device == device
            )
            step = tx.jit_step.lower(params, state, params).compile()
            memory = step.memory_analysis()
            found[f"{name}, {layout}"] = {
                "arguments": (arguments(plan), memory.argument_size_in_bytes),
                "held": (arguments(plan), held),
                "temporaries": (plan.temporaries, memory.temp_size_in_bytes),
            }
    print(json.dumps(found))


@functools.cache
def found_on_eight_devices():
    flags = "--xla_force_host_platform_device_count=8"
    call = "from tests.reports import test_memory_plan as t; t.on_eight_devices()"
    done = subprocess.run(
        [sys.executable, "-c", call],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done


@pytest.mark.parametrize("what", ["arguments", "held", "temporaries"])
def test_a_plan_for_eight_devices_is_what_xla_reports_for_each(what):
    done = found_on_eight_devices()
    assert done.returncode == 0, done.stderr[-4000:]
    for name, both in json.loads(done.stdout).items():
        planned, there = both[what]
        assert planned == pytest.approx(there, rel=0.01), name


# --- The command ---------------------------------------------------------------------


def table(capsys, *arguments):
    """The rows that the command prints, by their first word."""
    assert cli.main(["memory", *arguments]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    return out, rows


def test_the_command_shows_the_presets_side_by_side(capsys):
    out, rows = table(capsys, "--params", "7e9", "--no-temporaries")
    count = int(re.search(r"([\d,]+) parameters", out)[1].replace(",", ""))
    assert 5e9 < count < 9e9
    header = next(line for line in out.splitlines() if "gradients" in line).split()
    assert header[:4] == ["parameters", "gradients", "mu", "nu"]
    for name, kept in {
        "full": 12.0,
        "mixed": 12.0,
        "compact": 4.1,
        "8-bit": 6.1,
    }.items():
        found = float(rows[name][header.index("persistent")])
        assert kept - 0.1 <= found <= kept


def test_the_command_divides_by_devices_and_shows_an_average(capsys):
    options = ("--params", "1e9", "--no-temporaries", "--ema", "--plan", "compact")
    _, one = table(capsys, *options)
    out, eight = table(capsys, *options, "--devices", "8")
    assert "on 8 devices" in out
    assert "ema" in out
    assert one["compact"][:-2] == eight["compact"][:-2]
    sizes = [float(rows["compact"][-2]) for rows in (one, eight)]
    units = [rows["compact"][-1] for rows in (one, eight)]
    scale = {"MiB": 1, "GiB": 1024}
    peaks = [n * scale[u] for n, u in zip(sizes, units, strict=True)]
    assert peaks[1] == pytest.approx(peaks[0] / 8, rel=0.01)


def test_the_command_compiles_for_temporaries():
    options = ("--params", "1e8", "--plan", "full", "compact")
    done = subprocess.run(
        [*(sys.executable, "-m", "optadamw", "memory"), *options],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in ("full", "compact"):
        assert re.search(rf"^{name}  .*GiB$|^{name}  .*MiB$", done.stdout, re.MULTILINE)
    assert "temporaries as XLA takes them on cpu" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--params", "many"],
        ["--params", "-1"],
        ["--params", "nan"],
        ["--params", "7e9", "--devices", "0"],
        ["--params", "7e9", "--devices", "1.5"],
        ["--params", "7e9", "--plan", "tiny"],
        ["--params", "7e9", "--speed", "3"],
    ],
    ids=" ".join,
)
def test_bad_arguments_are_one_line(capsys, arguments):
    assert cli.main(["memory", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("optadamw memory: error: ")
    assert error.count("\n") == 1
    assert not arguments or arguments[-1] in error
