"""Compiled kernels as targets that XLA can call."""

import ctypes
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jax
import jaxlib

from optadamw.native.cache import CacheError, cached
from optadamw.native.compiler import Compiler, CompilerError
from optadamw.native.headers import header
from optadamw.native.loops import Loops

Failure = CompilerError | CacheError

_lock = threading.Lock()
_targets: dict[str, ctypes.CDLL] = {}
"""The libraries in this process by target; a library is never unloaded."""


@dataclass(frozen=True)
class Target:
    """A function that XLA calls by its name."""

    name: str


def source_of(loops: Loops, scalars: int) -> str:
    """Return the C source of a kernel without its digest.

    Args:
      loops: the loops of the kernel.
      scalars: how many of its scalars are operands; others say which leaf it is.
    """
    sizes = f"enum {{ HELD = {len(loops.outputs)}, SCALARS = {scalars} }};"
    return _source([sizes, loops.source], "step")


def source_of_norm(has_float16: bool) -> str:
    """Return the C source of the norm of gradients without its digest.

    Args:
      has_float16: whether gradients may be float16, which not every compiler knows.
    """
    lines = ["enum { BLOCK = 1 };"]
    if has_float16:
        lines.append("#define WITH_FLOAT16")
    return _source(lines, "norm")


def _source(own: Sequence[str], handler: str) -> str:
    # The digest of the source names the library: two libraries have two sources.
    version = f"/* optadamw_{handler} for jaxlib {jaxlib.__version__} */"
    before = [version, header("numbers"), header("ffi")]
    return "\n".join([*before, *own, header("pool"), header(handler)])


def load(source: str, compiler: Compiler, kind: str = "step") -> Target:
    """Compile a handler, or find it compiled, and make it known to XLA.

    Args:
      source: its C source without the digest.
      compiler: what compiles it.
      kind: "step" or "norm", a part of the name by which XLA knows it.

    Raises:
      CompilerError: the compiler makes no library, or none that can be loaded.
      CacheError: no folder can hold the library.
    """
    (found,) = load_all([source], compiler, kind)
    if isinstance(found, Target):
        return found
    raise found


def load_all(
    sources: Sequence[str], compiler: Compiler, kind: str = "step"
) -> list[Target | Failure]:
    """Compile handlers at once, one on each core; return them, or why there is none.

    Arguments and errors are those of `load`.
    """
    keys = [compiler.key(source) for source in sources]
    names = [f"optadamw_{kind}_{key}" for key in keys]
    with _lock:
        missing = {
            name: (key, source)
            for name, key, source in zip(names, keys, sources, strict=True)
            if name not in _targets
        }

        def library(name: str) -> Path | Failure:
            try:
                return _library(name, *missing[name], compiler)
            except (CompilerError, CacheError) as error:
                return error

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            # One handler starts no thread.
            run = threads.map if len(missing) > 1 else map
            paths = dict(zip(missing, run(library, missing), strict=True))
        failures = {name: _add(name, missing[name][0], x) for name, x in paths.items()}
    return [failures.get(name) or Target(name) for name in names]


def _library(name: str, key: str, source: str, compiler: Compiler) -> Path:
    def make(path: Path) -> None:
        head = f'#define HANDLER {name}\n#define SOURCE "{key}"\n'
        text = path.with_suffix(".c")
        text.write_text(head + source)
        compiler.compile(text, path)

    return cached(key, make)


def _add(name: str, key: str, path: Path | Failure) -> Failure | None:
    """Make a library known to XLA, or return why it cannot be."""
    if not isinstance(path, Path):
        return path
    try:
        library = ctypes.CDLL(str(path))
        stamp = ctypes.c_char.in_dll(library, "optadamw_source")
        made_from = ctypes.string_at(ctypes.addressof(stamp)).decode(errors="replace")
        handler = getattr(library, name)
    except (OSError, ValueError, AttributeError) as error:
        return CompilerError(f"the compiled kernel cannot be loaded: {error}")
    if made_from != key:
        return CompilerError("the compiled kernel was made from another source")
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
    _targets[name] = library
    return None
