"""Kernels for aarch64, cross-compiled and emulated, have the bits of those for x86-64.

The programs need `gcc-aarch64-linux-gnu` and `qemu-user` of Debian. XLA is not there:
its bits are held by the other tests, on the machine that runs them.
"""

import platform
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from optadamw.native import kernel
from optadamw.native.compiler import FLAGS, find_compiler
from optadamw.native.library import source_of
from tests.native import running, test_operations

CROSS = shutil.which("aarch64-linux-gnu-gcc")
EMULATOR = shutil.which("qemu-aarch64")
HAS_TOOLS = platform.machine() == "x86_64" and CROSS and EMULATOR
NO_TOOLS = "no x86-64 with aarch64-linux-gnu-gcc and qemu-aarch64"
pytestmark = [
    running.needs_compiler,
    pytest.mark.skipif(not HAS_TOOLS, reason=NO_TOOLS),
]

TARGETS = {"NEON": "-march=armv8-a", "SVE": "-march=armv8.2-a+sve"}
BLOCKS = optadamw.blockwise(min_size=0, block_size=32)
EIGHT = {"mu_dtype": BLOCKS, "nu_dtype": BLOCKS}
NU = optadamw.stochastic("bfloat16")
STEPS = {
    "float32": {},
    "all on": {"amsgrad": True, "nesterov": True, "ema_decay": 0.9, "clip_value": 1.0},
    "float16": {"dtype": "float16", "commit": "kahan"},
    "bfloat16": {"dtype": "bfloat16", "commit": "stochastic"},
    "bfloat16 moments": {"mu_dtype": "bfloat16", "nu_dtype": NU},
    "a master copy": {"dtype": "bfloat16", "commit": "master"},
    "8 bits in rows": {"shape": (3, 64), **EIGHT},
    "8 bits in columns": {"shape": (64, 3), **EIGHT},
}
FLOATS = {k: f for k, f in test_operations.FLOATS.items() if k != "select"}
"""`where(x > y, x, y)` is one instruction of x86, which flushes denormals in it."""
NARROW = {name: test_operations.FLOATS[name] for name in test_operations.NARROW}
OPERATIONS = {
    **dict.fromkeys(("float32", "float64"), FLOATS),
    **dict.fromkeys(("float16", "bfloat16"), NARROW),
}


def built(source, folder):
    """Compile a program for this machine and for each target; return the commands."""
    program = (running.FOLDER / "one_kernel.c").read_text()
    head = '#define HANDLER handler\n#define SOURCE "source"\n'
    (folder / "kernel.c").write_text(head + source + program)
    flags = [flag for flag in FLAGS if flag not in ("-shared", "-fPIC")]
    host = find_compiler()
    compilers = {"host": [host.path, *host.target]}
    compilers |= {name: [CROSS, "-static", march] for name, march in TARGETS.items()}
    for name, compiler in compilers.items():
        command = [*compiler, *flags, "kernel.c", "-o", name]
        subprocess.run(command, cwd=folder, check=True, timeout=120)
    emulated = {name: [EMULATOR, folder / name] for name in TARGETS}
    return {"host": [folder / "host"], **emulated}


def check(commands, operands, scalars, arrays, inner=1):
    """Compare the results of all programs for these numbers."""
    slots = np.zeros((operands + 3, 8), np.uint8)
    for slot, x in zip(slots, scalars, strict=False):
        slot[: x.dtype.itemsize] = x.reshape(1).view(np.uint8)
    sizes = np.array([arrays[0].size, inner]), np.array([x.nbytes for x in arrays])
    given = b"".join(x.tobytes() for x in (sizes[0], slots, sizes[1], *arrays))
    made = {
        name: subprocess.run(command, input=given, stdout=subprocess.PIPE, check=True)
        for name, command in commands.items()
    }
    for name in TARGETS:
        start = 0
        for place, x in enumerate(arrays[1:], start=1):
            part = x.dtype, x.size, start
            actual = np.frombuffer(made[name].stdout, *part)
            wanted = np.frombuffer(made["host"].stdout, *part)
            start += x.nbytes
            is_off = differ(actual, wanted)
            rows = [(i, actual[i], wanted[i]) for i in np.flatnonzero(is_off)[:5]]
            assert not is_off.any(), f"{name}, array {place}: {is_off.sum()}: {rows}"


def differ(actual, wanted):
    """Return for each element whether its bits differ; a NaN equals every NaN.

    Zero equals the smallest normal number: Arm flushes a result that is denormal before
    it is rounded, x86 one that is so after. The squares of a tiny gradient, less a tiny
    `nu`, are such results.
    """
    bits = f"u{wanted.dtype.itemsize}"
    is_off = actual.view(bits) != wanted.view(bits)
    is_off &= ~((actual != actual) & (wanted != wanted))
    if wanted.dtype.name in ("float32", "float64", "bfloat16"):
        least = jnp.finfo(wanted.dtype).tiny
        sizes = [abs(actual), abs(wanted)]
        is_off &= (np.minimum(*sizes) != 0) | (np.maximum(*sizes) != least)
    return is_off


@pytest.mark.parametrize("dtype", OPERATIONS)
def test_operations_have_the_bits_of_x86(dtype, tmp_path):
    functions = OPERATIONS[dtype].values()
    with jax.enable_x64(dtype == "float64"):
        x, y = test_operations.arrays(dtype)
        held = [x, y, *[jnp.zeros_like(x)] * (len(functions) - 1)]
        loops = running.loops(lambda x, y, *_: [f(x, y) for f in functions], (), held)
    commands = built(source_of(loops, 0), tmp_path)
    check(commands, 0, (), [np.asarray(x) for x in held])


@pytest.mark.parametrize("name", STEPS)
def test_steps_have_the_bits_of_x86(name, monkeypatch, tmp_path):
    options = dict(STEPS[name])
    dtype, shape = options.pop("dtype", "float32"), options.pop("shape", (64, 3))
    found = []
    monkeypatch.setattr(
        kernel, "source_of", lambda *x: found.append(x) or source_of(*x)
    )
    jax.clear_caches()
    kernel.forget()
    tx = optadamw.adamw(0.1, weight_decay=0.1, kernel="native", **options)
    params = {"w": jnp.ones(shape, dtype)}
    tx.step(params, tx.init(params), params)
    kernel.forget()
    ((loops, operands),) = found
    rng = np.random.default_rng(0)
    block = 32 if options.items() >= EIGHT.items() else 1
    columns = 3 if block > 1 and shape[-1] == 3 else 1
    arrays = [numbers(place, x, block, rng) for place, x in enumerate(loops.inputs)]
    scalars = [number(dtype, rng) for dtype in loops.scalars]
    commands = built(source_of(loops, operands), tmp_path)
    check(commands, operands, scalars, arrays, columns)
    # Zeros choose other loops.
    scalars[::3] = [np.zeros_like(x) for x in scalars[::3]]
    check(commands, operands, scalars, arrays, columns)


def number(dtype, rng):
    is_whole = dtype.kind in "iu"
    return np.asarray(rng.integers(2**20) if is_whole else rng.uniform(), dtype)


def numbers(place, dtype, block, rng, size=3 * 32 * 2000):
    """Gradients and parameters are of all sizes, buffers are not negative."""
    if dtype.kind in "iu":
        # Codes, and after them the scales of their blocks.
        codes = rng.integers(0, 128, size).astype(dtype)
        return codes if place % 2 == 0 or block == 1 else codes[: size // block]
    found = rng.normal(size=size) * 10 ** rng.uniform(-20, 6, size)
    found[: test_operations.X.size] = test_operations.X if place else test_operations.Y
    with np.errstate(all="ignore"):
        return (found if place < 2 else abs(found)).astype(dtype)
