"""A step runs by kernels by default, or by XLA without a message if there are none."""

import os
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

import optadamw
from optadamw.native import compiler, kernel
from tests.native import running
from tests.support import trees

pytestmark = running.needs_compiler

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 700).reshape(7, 100), "b": jnp.ones(3)}


def transformations(**options):
    """A transformation as nobody chose, and by XLA."""
    return [optadamw.adamw(1e-2, kernel=k, **options) for k in (None, "xla")]


def is_by_kernels(tx):
    step = jax.jit(tx.step).lower(PARAMS, tx.init(PARAMS), PARAMS)
    return "optadamw_" in step.as_text()


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """Nothing traced or compiled, in this process and in the folder."""
    monkeypatch.setenv("OPTADAMW_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv(kernel.SWITCH, raising=False)
    for clear in (kernel.forget, jax.clear_caches):
        clear()
    yield tmp_path
    for clear in (kernel.forget, jax.clear_caches):
        clear()


JUNK = 'for last; do :; done; case $last in *.so) echo junk > "$last";; esac'
"""A compiler that writes no library, and nothing when it is asked for its version."""


def script(folder, text):
    path = folder / "mycc"
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


def test_kernels_are_the_default(fresh):
    default, xla = transformations(clip_global_norm=1.0)
    assert is_by_kernels(default) and not is_by_kernels(xla)
    assert (
        optadamw.describe(default, PARAMS).splitlines()[-1].startswith("pass: native")
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "no compiler: mycc is not on the PATH"),
        ("echo broken >&2; exit 1", "mycc failed: broken"),
        (JUNK, "the compiled kernel cannot be"),
        ("sleep 60", "mycc did not end in 0.5 seconds"),
    ],
)
def test_a_compiler_that_fails_is_left_alone(fresh, monkeypatch, capfd, text, reason):
    monkeypatch.setattr(compiler, "TIMEOUT", 0.5)
    monkeypatch.setenv("CC", script(fresh, text) if text else "mycc")
    default, xla = transformations(skip_nonfinite=True)
    with warnings.catch_warnings(action="error"):
        ends = [
            jax.jit(tx.step)(PARAMS, tx.init(PARAMS), PARAMS) for tx in (default, xla)
        ]
        assert not is_by_kernels(default)
    trees.assert_same_bits(*ends)
    assert reason in optadamw.describe(default, PARAMS).splitlines()[-1]
    printed = capfd.readouterr()
    assert not printed.out and not printed.err


def test_a_compiler_that_hangs_is_waited_for_once(fresh, monkeypatch):
    monkeypatch.setattr(compiler, "TIMEOUT", 0.5)
    runs = fresh / "runs"
    monkeypatch.setenv("CC", script(fresh, f"echo run >> {runs}; sleep 60"))
    for options in ({}, {"amsgrad": True}, {"ema_decay": 0.9}):
        assert not is_by_kernels(transformations(**options)[0])
    assert runs.read_text().count("run") == 1


def test_a_cache_that_cannot_be_written_is_replaced(fresh, monkeypatch):
    (fresh / "file").write_text("")
    monkeypatch.setenv("OPTADAMW_CACHE_DIR", str(fresh / "file" / "cache"))
    assert is_by_kernels(transformations()[0])


def test_other_machines_and_devices(fresh, monkeypatch):
    default, _ = transformations()
    monkeypatch.setattr(kernel.platform, "machine", lambda: "aarch64")
    reason = "pass: XLA (kernels are on by default on x86-64 only: aarch64)"
    assert optadamw.describe(default, PARAMS).endswith(reason)
    assert not is_by_kernels(default)
    jax.clear_caches()
    monkeypatch.setattr(kernel.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert "pass:" not in optadamw.describe(default, PARAMS)
    assert not is_by_kernels(default)


def test_parts_that_move_buffers_are_left_to_xla():
    default, _ = transformations(offload="mu")
    reason = "pass: XLA (its buffers lie elsewhere than its parameters)"
    assert optadamw.describe(default, PARAMS).endswith(reason)


@pytest.mark.parametrize("options", [{}, {"clip_global_norm": 1.0, "ema_decay": 0.9}])
def test_inside_shard_map_over_one_device(options):
    mesh = jax.make_mesh((1,), ("data",))
    ends = []
    for tx in transformations(**options):
        tx = optadamw.with_axes(tx, {"*": ()}) if options else tx
        mapped = jax.shard_map(
            lambda g, s, p, tx=tx: tx.step(g, s, p)[0],
            mesh=mesh,
            in_specs=P(),
            out_specs=P(),
        )
        ends.append(jax.jit(mapped)(PARAMS, tx.init(PARAMS), PARAMS))
    trees.assert_same_bits(*ends)


SAVED = """
import pickle, sys, jax, jax.numpy as jnp, optadamw
from jax.experimental.serialize_executable import deserialize_and_load, serialize
tx = optadamw.adamw(1e-2, clip_global_norm=1.0)
params = {"w": jnp.linspace(-1.0, 1.0, 700)}
state = tx.init(params)
if sys.argv[1] == "save":
    saved = serialize(jax.jit(tx.step).lower(params, state, params).compile())
    pickle.dump(saved, open(sys.argv[2], "wb"))
else:
    jax.eval_shape(tx.step, params, state, params)
    step = deserialize_and_load(*pickle.load(open(sys.argv[2], "rb")))
    expected = tx.step(params, state, params)
    actual = step(params, state, params)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), actual, expected)
    assert jax.tree.all(same)
"""


def test_a_saved_executable_runs_where_a_step_was_traced(fresh):
    # An executable that came out of JAX's own cache cannot be written on a CPU.
    settings = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    for part in ("save", "load"):
        command = [sys.executable, "-c", SAVED, part, str(fresh / "x")]
        subprocess.run(command, check=True, env=settings)
