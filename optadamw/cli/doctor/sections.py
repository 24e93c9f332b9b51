"""The sections of `optadamw doctor`: a registry of functions that return lines.

`SECTIONS` maps the title of a section to a function without arguments, which returns
pairs of a name and a text. A new line is one pair in such a function, and a new section
one entry in the table. An error becomes the last line of its section and hides no
other section.
"""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp

from optadamw.adamw import adamw
from optadamw.base.version import __version__
from optadamw.native.kernel import why_not_default
from optadamw.reports.describe import describe

Line = tuple[str, str]
"""The name of a fact, and the fact as a text."""

PACKAGES = (
    *("jax", "jaxlib", "numpy", "optax", "ml_dtypes"),
    *("flax", "equinox", "keras", "orbax-checkpoint", "safetensors", "h5py", "torch"),
)
SETTINGS = (
    *("jax_enable_x64", "jax_numpy_dtype_promotion", "jax_default_matmul_precision"),
    *("jax_debug_nans", "jax_disable_jit", "jax_compilation_cache_dir"),
)
VARIABLES = (
    "OPTADAMW_",
    "JAX_",
    "XLA_",
    "KERAS_BACKEND",
    "CUDA_VISIBLE_DEVICES",
    "TPU_",
)
"""Environment variables of these names, or whose names begin so, are printed."""


def versions() -> Iterator[Line]:
    """List the versions of the library and of the packages that it works with."""
    yield "optadamw", __version__
    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "platform", platform.platform()
    for name in PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, "not installed"


def devices() -> Iterator[Line]:
    """List the devices that JAX sees, and the processes among which they are shared."""
    kinds: dict[str, int] = {}
    for device in jax.devices():
        kind = f"{device.platform} ({device.device_kind})"
        kinds[kind] = kinds.get(kind, 0) + 1
    yield "backend", jax.default_backend()
    for kind, count in kinds.items():
        yield kind, f"{count} device{'' if count == 1 else 's'}"
    yield "processes", str(jax.process_count())
    yield "CPU cores", str(os.cpu_count())


def settings() -> Iterator[Line]:
    """List the settings of JAX that change numbers or compile times."""
    for name in SETTINGS:
        yield name, str(getattr(jax.config, name, "no such setting in this JAX"))
    for name in sorted(os.environ):
        if name.startswith(VARIABLES):
            yield name, os.environ[name]


def fast_paths() -> Iterator[Line]:
    """Say for each fast path whether it is on, and otherwise why it is not."""
    yield "in-place step (tx.jit_step)", _in_place()
    yield "CPU kernels (with_kernels)", _kernels()
    yield "Pallas kernels (with_pallas)", _pallas()
    cache = getattr(jax.config, "jax_compilation_cache_dir", None)
    yield (
        "compiled programs kept on disk",
        f"on: {cache}"
        if cache
        else "off: jax_compilation_cache_dir is not set, so each process compiles anew",
    )


def _kernels() -> str:
    """Compile a kernel, or find it in the cache, and say what runs a small step."""
    params = {"w": jax.ShapeDtypeStruct((64, 64), jnp.float32)}
    line = describe(adamw(1e-3, kernel="auto"), params).splitlines()[-1]
    runs = line.removeprefix("pass: ")
    if not runs.startswith("native"):
        return f"off: {runs}"
    reason = why_not_default()
    if reason is None:
        return f"on: {runs}, by default"
    return f"possible: {runs}, where the option kernel asks for it ({reason})"


def _in_place() -> str:
    """Compile a small step with donated arguments and read what XLA made of it."""
    tx = adamw(1e-3)
    params = {"w": jnp.ones((64, 64))}
    state = tx.init(params)
    compiled = tx.jit_step.lower(params, state, params).compile()
    memory = compiled.memory_analysis()
    if memory is None:
        return "unknown: this backend does not report the memory of a program"
    wanted = 3 * 64 * 64 * 4
    reused = memory.alias_size_in_bytes
    if reused >= wanted:
        return "on: parameters and state are overwritten"
    return f"off: XLA reuses {reused:,} of {wanted:,} bytes of parameters and moments"


def _pallas() -> str:
    backend, kind = jax.default_backend(), jax.devices()[0].device_kind
    if backend == "tpu":
        return "on: they run parameters with buffers in 8 or 16 bits"
    if backend == "gpu" and "nvidia" in kind.lower():
        return "on: they run parameters with buffers in 8 bits"
    return f"off: they are for TPUs and NVIDIA GPUs, and the device is {kind}"


SECTIONS: dict[str, Callable[[], Iterable[Line]]] = {
    "Versions": versions,
    "Devices": devices,
    "Settings": settings,
    "Fast paths": fast_paths,
}
"""The sections in the order in which they are printed."""


def lines_of(section: Callable[[], Iterable[Line]]) -> list[Line]:
    """Return the lines of a section; an error ends it as a line of its own."""
    found: list[Line] = []
    try:
        found.extend(section())
    except Exception as error:  # a broken backend is what a bug report is about
        found.append(("error", " ".join(f"{type(error).__name__}: {error}".split())))
    return found
