"""The C compiler of this machine: which it is, and one run of it."""

import contextlib
import hashlib
import os
import platform
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

TIMEOUT = 60.0
"""Seconds after which a compiler that does not end is killed; a kernel takes 0.2 to 0.6
seconds."""

PATIENCE = 0.5
"""Seconds for which the output of a compiler that has ended is waited for: a child that
it left behind may keep its pipes open."""

MOST = 1 << 20
"""Bytes after which a compiler that prints without end is killed."""

FLAGS = (
    # The source is C, also for a compiler of C++, such as g++.
    *("-x", "c", "-std=gnu11", "-O3", "-shared", "-fPIC", "-fvisibility=hidden", "-w"),
    # Each product is contracted where the source says so; sqrt sets no errno and a
    # comparison raises no flag, so that loops can be vectorized.
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
)

X86 = ("x86_64", "AMD64")
ARM = ("aarch64", "arm64")

TARGETS = {
    "": ("-march=native",),
    "SSE4_2": ("-march=x86-64-v2",),
    "AVX": ("-march=x86-64-v2", "-mavx"),
    "AVX2": ("-march=x86-64-v3",),
    "AVX512": ("-march=x86-64-v4",),
}
"""The flags for XLA's `--xla_cpu_max_isa`, on which fused multiply-adds depend."""


class CompilerError(Exception):
    """No compiler was found, or it made no library; the text says why."""


_stuck: dict[tuple[str, tuple[int, int]], str] = {}
"""Compilers that did not end, by path and stamp: no process waits for one twice."""


@dataclass(frozen=True)
class Compiler:
    """A C compiler and what its libraries depend on."""

    path: str
    stamp: tuple[int, int]
    """Size and time of the file: an update of the compiler changes them."""
    target: tuple[str, ...]
    """The flags that choose the instruction set."""
    words: tuple[str, ...] = ()
    """What stands after the path in `CC`, such as the "gcc" of "ccache gcc"."""

    @property
    def version(self) -> str:
        """The name and version that the compiler prints, such as "cc 12.2.0"."""
        name = Path(self.path).name
        try:
            text = _run([self.path, *self.words, "--version"], timeout=10.0)
        except (CompilerError, TimeoutError):
            return name
        found = re.search(r"\b\d+\.\d+(\.\d+)?", text)
        return f"{name} {found[0]}" if found else name

    def key(self, source: str) -> str:
        """Return the digest of everything on which a library depends."""
        command = self._command()
        parts = (source, *command, *map(str, self.stamp))
        text = "\0".join((*parts, features()))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def compile(self, source: Path, library: Path) -> None:
        """Compile a file to a shared library.

        Raises:
          CompilerError: the compiler fails, does not end, or did not end before.
        """
        if (self.path, self.stamp) in _stuck:  # while this kernel waited for a core
            raise CompilerError(_stuck[self.path, self.stamp])
        command = self._command()
        try:
            _run([*command, str(source), "-o", str(library)], timeout=TIMEOUT)
        except TimeoutError as error:
            _stuck[self.path, self.stamp] = str(error)
            raise CompilerError(str(error)) from None
        if not library.exists():
            raise CompilerError(f"{Path(self.path).name} ended without a library")

    def _command(self) -> tuple[str, ...]:
        # The flags of a kernel come last, and win. Python would end at once if it
        # loaded a library with the sanitizer of addresses.
        undone = ("-fno-fast-math", "-fno-sanitize=all")
        own = (*self.words, *undone) if self.words else ()
        return self.path, *own, *FLAGS, *self.target


def find_compiler() -> Compiler:
    """Return the compiler that the variable `CC` names (default: `cc`).

    As for `make`, words may follow the name: "ccache gcc", "gcc -m64".

    Raises:
      CompilerError: there is none, or it did not end before.
    """
    chosen = os.environ.get("CC", "")
    try:
        name, *words = shlex.split(chosen) or ["cc"]
    except ValueError as error:
        raise CompilerError(f"no compiler: CC is {chosen!r}: {error}") from None
    path = shutil.which(name)
    if path is None and words:  # a path with spaces
        name, words, path = chosen, [], shutil.which(chosen)
    if path is None:
        raise CompilerError(f"no compiler: {name} is not on the PATH")
    if os.name != "posix" or platform.machine() not in X86 + ARM:
        machine = f"{platform.system()} on {platform.machine()}"
        raise CompilerError(f"kernels are not made for {machine}")
    facts = os.stat(path)
    stamp = facts.st_size, facts.st_mtime_ns
    if (path, stamp) in _stuck:
        raise CompilerError(_stuck[path, stamp])
    return Compiler(path, stamp, _target(), tuple(words))


def _target() -> tuple[str, ...]:
    """Return the flags for the instruction set that XLA's own code may use.

    Raises:
      CompilerError: XLA's flag names one for which no target is known.
    """
    if platform.machine() in ARM:
        return ("-mcpu=native",)
    flags = os.environ.get("XLA_FLAGS", "")
    found = re.findall(r"--xla_cpu_max_isa=(\w+)", flags)
    name = found[-1].upper() if found else ""
    if name not in TARGETS:
        raise CompilerError(f"no kernels are made under --xla_cpu_max_isa={name}")
    return TARGETS[name]


@lru_cache(maxsize=1)
def features() -> str:
    """Return a text that differs between CPUs with different instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    wanted = ("flags", "features", "model name", "cpu part", "cpu implementer")
    facts = {x for x in lines if x.lower().startswith(wanted)}
    return "\n".join([platform.machine(), platform.processor(), *sorted(facts)])


def _run(command: Sequence[str], timeout: float) -> str:
    """Run a compiler with all processes that it starts, and return what it prints.

    Raises:
      CompilerError: it fails, or prints without end.
      TimeoutError: it does not end.
    """
    name = Path(command[0]).name
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise CompilerError(f"{name} cannot be run: {error.strerror}") from None
    with process:
        try:
            printed, complaints = _printed(process, name, time.monotonic() + timeout)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                what = f"{name} did not end in {timeout:g} seconds"
                raise TimeoutError(what) from None
            raise
    if process.returncode:
        lines = complaints.strip().splitlines()
        # The first line of gcc names a function, and the error follows.
        lines.sort(key=lambda line: "error" not in line)
        raise CompilerError(f"{name} failed: {next(iter(lines), 'no message')}")
    return printed


def _printed(
    process: subprocess.Popen[bytes], name: str, end: float
) -> tuple[str, str]:
    """Wait for a process, and return its output and its errors.

    Unlike `communicate`, this keeps no more than `MOST` bytes in memory.

    Raises:
      CompilerError: it prints more.
      subprocess.TimeoutExpired: it runs longer than until `end`.
    """
    texts = {pipe: bytearray() for pipe in (process.stdout, process.stderr) if pipe}
    with selectors.DefaultSelector() as open_pipes:
        for pipe in texts:
            open_pipes.register(pipe, selectors.EVENT_READ)
        while open_pipes.get_map():
            left = max(0.0, end - time.monotonic())
            ready = open_pipes.select(min(left, PATIENCE))
            if not ready:
                if process.poll() is not None:
                    break  # a child that it left behind keeps the pipes open
                if left <= PATIENCE:
                    raise subprocess.TimeoutExpired(process.args, 0.0)
            for key, _ in ready:
                data = os.read(key.fd, 1 << 16)
                if not data:
                    open_pipes.unregister(key.fileobj)
                texts[key.fileobj] += data  # type: ignore[index]
            if sum(map(len, texts.values())) > MOST:
                raise CompilerError(f"{name} prints without end")
    process.wait(max(0.0, end - time.monotonic()))
    printed, complaints = (text.decode(errors="replace") for text in texts.values())
    return printed, complaints
