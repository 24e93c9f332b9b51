"""The demo's JSON summary: everything that a rerun or a plot needs."""

import hashlib
import importlib.metadata
import math
import platform
from typing import Any

import jax
import numpy as np

import optadamw
from optadamw.cli.demo.settings import Settings
from optadamw.cli.demo.training import Run

_PACKAGES = ("jax", "jaxlib", "optax", "flax", "numpy", "scikit-learn")


def of_run(run: Run) -> dict[str, Any]:
    """Return the results of one optimizer's training."""
    return {
        "failed_step": run.failed_step,
        "parameters_sha256": digest(run.params),
        "seconds": run.seconds,
        "history": records(run),
    }


def records(run: Run) -> list[dict[str, Any]]:
    """Return a run's epochs as plain mappings, for plots and JSON."""
    return [epoch._asdict() for epoch in run.history]


def whole(settings: Settings, **contents: Any) -> dict[str, Any]:
    """Return the whole summary, ready for strict JSON."""
    devices = [device.device_kind for device in jax.devices()]
    contents = {
        "arguments": settings.plain(),
        "versions": versions(),
        "machine": {"system": platform.platform(), "devices": devices},
        **contents,
    }
    return _without_nonfinite(contents)


def versions() -> dict[str, str]:
    """Return the versions of Python, of this library and of what the demo uses."""
    return {
        "python": platform.python_version(),
        "optadamw": optadamw.__version__,
        **{package: importlib.metadata.version(package) for package in _PACKAGES},
    }


def size(params: Any) -> int:
    """Return the number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def digest(params: Any) -> str:
    """Return a SHA-256 of the parameters' paths and bytes."""
    sha256 = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        sha256.update(jax.tree_util.keystr(path).encode())
        sha256.update(np.asarray(leaf).tobytes())
    return sha256.hexdigest()


def _without_nonfinite(value: Any) -> Any:
    """Replace NaN and infinities by None: JSON has neither."""
    match value:
        case dict():
            return {key: _without_nonfinite(entry) for key, entry in value.items()}
        case list() | tuple():
            return [_without_nonfinite(entry) for entry in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value
