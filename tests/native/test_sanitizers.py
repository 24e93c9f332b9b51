"""The runtime and generated kernels under the sanitizers of the C compiler."""

import subprocess

import jax
import jax.numpy as jnp
import pytest

import optadamw
from optadamw.native import kernel, library
from optadamw.native.compiler import find_compiler
from tests.native import running

pytestmark = running.needs_compiler

SANITIZERS = ("address,undefined", "thread")


BLOCKS = {
    "rows": ((64, 3), ["-DINNER=3"]),
    "the last axis": ((3, 64), ["-DINNER=1"]),
}
"""Shapes whose blocks of 32 lie along either axis, and where their elements are."""
EIGHT_BITS = "-DBYTES(j,n)=((j)<2?(n)*4:(j)%2?(n)/BLOCK:(n))"
"""Gradient and parameter are float32; codes and scales follow one another."""


def sources(monkeypatch, shape=(3,), **options):
    """The sources of the kernels that a step of these options needs."""
    found = []
    source_of = library.source_of

    def recorded(*arguments):
        found.append(source_of(*arguments))
        return found[-1]

    monkeypatch.setattr(kernel, "source_of", recorded)
    # A step that was compiled before would not be traced.
    jax.clear_caches()
    kernel.forget()
    tx = optadamw.adamw(0.1, kernel="native", **options)
    params = {"w": jnp.ones(shape)}
    tx.step(params, tx.init(params), params)
    kernel.forget()
    return found


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_nothing_is_found(sanitizer, monkeypatch, tmp_path):
    options = {"amsgrad": True, "ema_decay": 0.9, "clip_value": 1.0, "maximize": True}
    (source,) = sources(monkeypatch, **options)
    run = sanitized(source, sanitizer, tmp_path)
    assert_nothing_found(run)


@pytest.mark.parametrize("name", BLOCKS)
def test_nothing_is_found_in_blocks(name, monkeypatch, tmp_path):
    shape, where = BLOCKS[name]
    eight = optadamw.blockwise(min_size=0, block_size=32)
    (source,) = sources(monkeypatch, shape, mu_dtype=eight, nu_dtype=eight)
    macros = [*where, EIGHT_BITS]
    run = sanitized(source, SANITIZERS[0], tmp_path, *macros)
    assert_nothing_found(run)
    fault = source.replace("k < BLOCK;", "k <= BLOCK;")
    assert fault != source
    assert "overflow" in sanitized(fault, "address", tmp_path, *macros).stderr


PARTS = {
    **{name: (*BLOCKS[name], EIGHT_BITS) for name in BLOCKS},
    "no blocks": ((3,), ["-DINNER=1"], "-DBYTES(j,n)=((n)*((j)<3?4:2))"),
}
"""As above; and a second moment in bfloat16, which is rounded at random too."""


@pytest.mark.parametrize("name", PARTS)
def test_nothing_is_found_in_parts(name, monkeypatch, tmp_path):
    shape, where, sizes = PARTS[name]
    store = optadamw.blockwise(min_size=0, block_size=32)
    options = {"mu_dtype": store, "nu_dtype": store}
    if name == "no blocks":
        options = {"nu_dtype": optadamw.stochastic("bfloat16")}
    (source,) = sources(monkeypatch, shape, **options)
    macros = [*where, sizes, "-DCUT=1"]
    run = sanitized(source, SANITIZERS[0], tmp_path, *macros)
    assert_nothing_found(run)
    fault = source.replace("HEAD + leaf * (2", "HEAD + leaf * (3")
    assert fault != source
    assert "overflow" in sanitized(fault, "address", tmp_path, *macros).stderr


def test_a_fault_is_found(monkeypatch, tmp_path):
    (source,) = sources(monkeypatch)
    assert "i < n;" in source
    run = sanitized(source.replace("i < n;", "i < n + 1;"), "address", tmp_path)
    assert "heap-buffer-overflow" in run.stderr


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_nothing_is_found_in_the_norm(sanitizer, tmp_path):
    source = library.source_of_norm()
    run = sanitized(source, sanitizer, tmp_path, calls="sanitized_norm.c")
    assert_nothing_found(run)
    fault = source.replace("i + LANES <= n", "i < n")
    assert fault != source
    run = sanitized(fault, "address", tmp_path, calls="sanitized_norm.c")
    assert "heap-buffer-overflow" in run.stderr


def assert_nothing_found(run):
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.strip() == "done" and not run.stderr


def sanitized(source, sanitizer, folder, *macros, calls="sanitized.c"):
    """Compile a handler with a program that calls it, and run it."""
    parts = [running.FOLDER / name for name in ("sanitized_pool.c", calls)]
    harness = "\n".join(part.read_text() for part in parts)
    head = '#define HANDLER handler\n#define SOURCE "source"\n'
    (folder / "kernel.c").write_text(head + source + harness)
    command = [find_compiler().path, "-std=gnu11", "-O1", "-g", "-w", "-pthread"]
    command += [*macros, f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    command += ["-ffp-contract=off", "-o", "kernel", "kernel.c", "-lm"]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if "cannot find" in made.stderr:
        pytest.skip("the sanitizers of the C compiler are not installed")
    assert made.returncode == 0, made.stderr
    return subprocess.run(
        [folder / "kernel"], capture_output=True, text=True, timeout=120
    )
