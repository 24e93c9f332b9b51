"""What the demo says at its end: a table, a verdict, and a summary for machines."""

import dataclasses
import hashlib
import importlib.metadata
import math
import platform
from typing import Any

import jax
import numpy as np

from optadamw.demo.data import Splits
from optadamw.demo.evaluation import evaluate, read_rightly
from optadamw.demo.settings import TEST_IMAGES, Settings
from optadamw.demo.training import Run

_PACKAGES = ("optadamw", "jax", "jaxlib", "optax", "flax", "numpy", "scikit-learn")


def scores(graph: Any, params: Any, splits: Splits) -> dict[str, dict[str, float]]:
    """Return loss and accuracy of final parameters on each part of the data."""
    return {
        part: dict(
            zip(
                ("loss", "accuracy"),
                map(float, evaluate(params, graph, examples)),
                strict=True,
            )
        )
        for part, examples in splits._asdict().items()
    }


def table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """Lay out the scores, one optimizer in a line."""
    width = max(map(len, rows))
    parts = next(iter(rows.values()))
    lines = [
        " " * width + "".join(f"   {part:>18}" for part in parts),
        " " * width + f"   {'loss':>8} {'accuracy':>9}" * len(parts),
    ]
    for label, by_part in rows.items():
        cells = (
            f"   {score['loss']:8.4f} {score['accuracy']:9.2%}"
            for score in by_part.values()
        )
        lines.append(f"{label:<{width}}" + "".join(cells))
    return "\n".join(lines)


def compare(graph: Any, first: Any, second: Any, splits: Splits) -> dict[str, Any]:
    """Count the test images that only one of two networks reads rightly.

    The p-value is the exact sign test's over those images (McNemar's): how often two
    equally good networks would differ at least so much.
    """
    first_right, second_right = (
        np.asarray(read_rightly(params, graph, splits.test))
        for params in (first, second)
    )
    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    differing = only_first + only_second
    fewer = min(only_first, only_second)
    tail = sum(math.comb(differing, k) for k in range(fewer + 1)) / 2**differing
    return {
        "right": (int(first_right.sum()), int(second_right.sum())),
        "only_right": (only_first, only_second),
        "p_value": min(1.0, 2 * tail),
    }


def verdict(comparison: dict[str, Any], first: str, second: str) -> str:
    """Say which of the two did better on the test images, or that neither did."""
    right, only = comparison["right"], comparison["only_right"]
    counts = (
        f"Of {TEST_IMAGES} test images {first} reads {right[0]} rightly "
        f"and {second} {right[1]}"
    )
    if right[0] == right[1]:
        return f"{counts}: neither is ahead."
    ahead = first if right[0] > right[1] else second
    chance = comparison["p_value"]
    weight = "more than" if chance < 0.05 else "no more than"
    return (
        f"{counts}: {ahead} is ahead, by {weight} chance explains\n"
        f"({only[0]} are read rightly by {first} alone, {only[1]} by {second} alone: "
        f"sign test p = {chance:.2f})."
    )


def failure(label: str, run: Run, settings: Settings) -> str:
    """Say at which step a training failed, and what to change."""
    return (
        f"{label}: the loss was not finite at step {run.failed_step} "
        f"(epoch {len(run.history)} of {settings.epochs}); its training stopped there. "
        f"Lower --learning-rate (now {settings.learning_rate:g}) "
        f"or set --clip-global-norm (now {settings.clip_global_norm or 'off'})."
    )


def run_summary(run: Run, final: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Return one optimizer's history and result."""
    return {
        "final": final,
        "failed_step": run.failed_step,
        "parameters_sha256": digest(run.params),
        "seconds": run.seconds,
        "history": records(run),
    }


def records(run: Run) -> list[dict[str, Any]]:
    """Return a run's epochs as plain mappings, as plots and JSON take them."""
    return [epoch._asdict() for epoch in run.history]


def summary(settings: Settings, params: Any, **contents: Any) -> dict[str, Any]:
    """Return the whole summary, ready for strict JSON."""
    whole = {
        "arguments": dataclasses.asdict(settings) | {"output": str(settings.output)},
        "versions": {"python": platform.python_version()}
        | {package: _version(package) for package in _PACKAGES},
        "machine": {"system": platform.platform(), "devices": _devices()},
        "parameters": size(params),
        **contents,
    }
    return _without_nonfinite(whole)


def size(params: Any) -> int:
    """Return the number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def digest(params: Any) -> str:
    """Return a SHA-256 of the parameters' bytes: equal where every bit is."""
    sha256 = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        sha256.update(jax.tree_util.keystr(path).encode())
        sha256.update(np.asarray(leaf).tobytes())
    return sha256.hexdigest()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[str]:
    return [device.device_kind for device in jax.devices()]


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
