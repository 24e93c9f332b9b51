"""Compiled kernels as targets that XLA can call."""

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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

_pools: dict[int, ThreadPoolExecutor] = {}
"""The threads of each process: a child of a fork has none of its parent's."""


@dataclass(frozen=True)
class Target:
    """A function that XLA calls by its name."""

    name: str


@dataclass(frozen=True)
class Making:
    """A handler that a thread compiles, or looks for, beside other work.

    Attributes:
      target: the function, once `wait` has returned it.
      library: finds or makes the library.
      path: the result of `library` in the thread.
      process: the process of the thread.
    """

    target: Target
    library: Callable[[], Path | Failure]
    path: Future[Path | Failure]
    process: int

    def wait(self) -> Target | Failure:
        """Make the handler known to XLA, or return why there is none."""
        is_child = self.process != os.getpid() and not self.path.done()
        try:
            # A child of a fork does not have the thread.
            path = self.library() if is_child else self.path.result()
            with _lock:
                found = _added(self.target, path)
        except Exception:
            # Not after KeyboardInterrupt: the next step waits for the thread.
            self._end()
            raise
        self._end()
        return found

    def _end(self) -> None:
        with _lock:
            _makings.pop(self.target.name, None)


_makings: dict[str, Making] = {}
"""What was begun and not yet waited for, by target."""


def source_of(loops: Loops, scalars: int) -> str:
    """Return the C source of a kernel without its digest.

    Args:
      loops: the loops of the kernel.
      scalars: how many of its scalars are operands; others say which leaf it is.
    """
    sizes = f"enum {{ HELD = {len(loops.outputs)}, SCALARS = {scalars} }};"
    return _source([sizes, loops.source], "step")


def source_of_norm() -> str:
    """Return the C source of the norm of gradients without its digest."""
    return _source(["enum { BLOCK = 1 };"], "norm")


def _source(own: Sequence[str], handler: str) -> str:
    # The digest of the source names the library: two libraries have two sources.
    version = f"/* optadamw_{handler} for jaxlib {jaxlib.__version__} */"
    before = [version, header("numbers"), header("ffi")]
    return "\n".join([*before, *own, header("pool"), header(handler)])


def begin(source: str, compiler: Compiler, kind: str = "step") -> Making:
    """Begin to compile a handler in a thread, or to find it compiled.

    As many handlers are compiled at once as the machine has cores.

    Args:
      source: the C source of the handler without the digest.
      compiler: what compiles it.
      kind: "step" or "norm", a part of the name by which XLA knows the handler.
    """
    key = compiler.key(source)
    target = Target(f"optadamw_{kind}_{key}")

    def library() -> Path | Failure:
        try:
            return _library(target.name, key, source, compiler)
        except (CompilerError, CacheError) as error:
            return error

    path: Future[Path | Failure] = Future()
    process, name = os.getpid(), target.name
    with _lock:
        if name in _makings:
            return _makings[name]
        if name in _targets:
            path.set_result(Path())  # which `wait` does not read
            return Making(target, library, path, process)
        if process not in _pools:
            _pools[process] = ThreadPoolExecutor(os.cpu_count())
        try:
            path = _pools[process].submit(library)
        except RuntimeError:  # no thread can start, or the interpreter is shutting down
            path.set_result(library())
        _makings[name] = Making(target, library, path, process)
        return _makings[name]


def finish() -> None:
    """Wait for all that was begun: a process that traces a step knows its kernels."""
    with _lock:
        begun = list(_makings.values())
    for making in begun:
        making.wait()


def is_made(target: str) -> bool:
    """Whether XLA can call a target; waits if it was begun and has not ended."""
    with _lock:
        making = _makings.get(target)
    return target in _targets if making is None else isinstance(making.wait(), Target)


def _library(name: str, key: str, source: str, compiler: Compiler) -> Path:
    def make(path: Path) -> None:
        head = f'#define HANDLER {name}\n#define SOURCE "{key}"\n'
        text = path.with_suffix(".c")
        text.write_text(head + source)
        compiler.compile(text, path)

    return cached(key, make)


def _added(target: Target, path: Path | Failure) -> Target | Failure:
    """Make a library known to XLA, or return why it cannot be."""
    if target.name in _targets:
        return target
    if not isinstance(path, Path):
        return path
    key = target.name.rpartition("_")[2]
    try:
        library = ctypes.CDLL(str(path))
        stamp = ctypes.c_char.in_dll(library, "optadamw_source")
        made_from = ctypes.string_at(ctypes.addressof(stamp)).decode(errors="replace")
        handler = getattr(library, target.name)
    except (OSError, ValueError, AttributeError) as error:
        return CompilerError(f"the compiled kernel cannot be loaded: {error}")
    if made_from != key:
        return CompilerError("the compiled kernel was made from another source")
    capsule = jax.ffi.pycapsule(handler)
    jax.ffi.register_ffi_target(target.name, capsule, platform="cpu")
    _targets[target.name] = library
    return target
