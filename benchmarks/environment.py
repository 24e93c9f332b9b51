"""The machine, the versions, and the number of threads: what a figure depends on."""

import contextlib
import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

import optadamw

_PACKAGES = ("jax", "jaxlib", "numpy", "optax", "keras", "torch")
_ROOT = Path(__file__).parent.parent


def prepare(threads: int) -> int:
    """Limits every contender to the same cores; call it before any of them computes.

    XLA sizes its thread pool by the cores that the process may use, PyTorch by OpenMP's
    variable; both look once, when they start.

    Returns:
        The number of threads that all contenders use.
    """
    os.environ["KERAS_BACKEND"] = "jax"
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))[:threads]
        os.sched_setaffinity(0, cores)
        threads = len(cores)
    else:
        # Without affinity XLA takes all cores, so PyTorch must as well.
        threads = os.cpu_count() or 1
    os.environ["OMP_NUM_THREADS"] = str(threads)
    return threads


def versions() -> dict[str, str | None]:
    """Reads the versions of Python and of every package involved."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "optadamw": optadamw.__version__,
    }
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def commit() -> dict[str, Any]:
    """Reads which commit is checked out and whether the measured code differs."""
    head = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--", "optadamw", "benchmarks/*.py")
    return {"commit": head or None, "dirty": None if changes is None else bool(changes)}


def of_topology(name: str, mesh: Any, quick: bool) -> dict[str, Any]:
    """Describes devices that are compiled for, and what compiles for them."""
    return {
        "schema": 1,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "topology": name,
        "device_kind": mesh.devices.flat[0].device_kind,
        "devices": mesh.size,
        "quick": quick,
        "versions": versions(),
        "source": commit(),
    }


def machine() -> dict[str, Any]:
    """Describes the device and the host."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device_kind": device.device_kind,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "transparent_hugepages": _first_line(
            Path("/sys/kernel/mm/transparent_hugepage/enabled")
        ),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _git(*arguments: str) -> str | None:
    try:
        return subprocess.run(
            ["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _first_line(path: Path) -> str | None:
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return None
