"""Ten thousand steps with tiny gradients: moments that freeze, writes that are biased.

A quadratic whose minimum lies beyond reach in every direction alike, with gradients of
1e-6, mostly noise, which after half of the steps become 1e-8. A second moment that
cannot decay then stays up to ten thousand times too large. Two errors of the parameters
are averaged over elements, each against its standard error: as they are, which shows
writes that favor a direction of the number line, and along the way to the minimum,
which shows steps that are too short or too long.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.precision import report
from benchmarks.precision.contenders import BASE, CONTENDERS, Contender
from benchmarks.precision.problem import raised

STEPS = 10_000
_SHAPE = (128, 128)
_GRADIENTS = (1e-6, 1e-8)
_NOISE = 3.0
_RATE = 3e-4
# Epsilon far below the smaller gradients, and no decay, which all do alike.
_HYPERPARAMETERS = {"b1": 0.9, "b2": 0.999, "eps": 1e-12, "weight_decay": 0.0}
_LIMIT = 3.0

SETTINGS = {
    "shape": list(_SHAPE),
    "gradients": list(_GRADIENTS),
    "noise": _NOISE,
    "rate": _RATE,
    **_HYPERPARAMETERS,
}


class Trace(NamedTuple):
    """The result of a run."""

    before: np.ndarray
    """The second moment when gradients drop."""
    after: np.ndarray
    """The second moment in the end."""
    parameters: np.ndarray
    seconds: np.ndarray


def reference(steps: int, seed: int) -> Trace:
    """Runs full precision."""
    return _run(CONTENDERS[BASE], steps, seed)


def compared(contender: Contender, full: Sequence[Trace], steps: int) -> dict[str, Any]:
    """Runs a contender beside full precision, once for each of its runs.

    Args:
        contender: Who runs.
        full: The runs of full precision, by their seeds: of landscape, noise of the
            gradients, and random rounding.
        steps: How many; gradients drop after half of them.

    Returns:
        Its second moment as a multiple of full precision's, as the median over
        elements, and the two mean errors of its parameters, over all runs.
    """
    seeds = range(len(full))
    found, full = (
        Trace(*(np.stack(parts) for parts in zip(*runs, strict=True)))
        for runs in ([_run(contender, steps, seed) for seed in seeds], full)
    )
    pairs = [_landscape(seed)[:2] for seed in seeds]
    start, target = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    error = np.asarray(found.parameters - full.parameters, np.float64)
    way = np.sign(np.asarray(target - start, np.float64))
    return {
        "nu_before": float(np.median(found.before / full.before)),
        "nu_after": float(np.median(found.after / full.after)),
        "traveled": float(np.mean(way * (full.parameters - start))),
        "bias": _mean(error),
        "bias_along": _mean(error * way),
        "seconds": float(found.seconds.sum()),
    }


def table(figures: Mapping[str, Any]) -> str:
    """Sets the comparison as a table in Markdown."""
    header = ["contender", "parameters", "nu before the drop", "nu in the end"]
    for error in ("mean error", "error along the way"):
        header += [error, "its standard error", "ratio"]
    rows = []
    for name, entry in figures["contenders"].items():
        row = [name, entry["kept"]]
        if "absent" in entry:
            reason = entry["absent"].split("\n", 1)[0].replace("|", "/")
            rows.append([*row, f"absent: {reason}", *[""] * (len(header) - 3)])
            continue
        row += [f"{entry['nu_before']:.3f}", f"{entry['nu_after']:.3f}"]
        row += [*_spread(entry["bias"]), *_spread(entry["bias_along"])]
        rows.append(row)
    ran = [e for e in figures["contenders"].values() if "absent" not in e]
    title = f"## convex: {figures['settings']['steps']:,} steps"
    if ran:
        way = statistics.fmean(entry["traveled"] for entry in ran)
        title += f"\n\nFull precision travels {way:.4f} on average."
    return f"{title}\n\n{report.table(header, rows)}"


def _run(contender: Contender, steps: int, seed: int) -> Trace:
    began = time.perf_counter()
    start, target, curvature = _landscape(seed)
    stream = jax.random.key(2**16 + seed)

    def loss(params: Any, step: int, size: float) -> jax.Array:
        p = raised(params)["p"]
        noise = jax.random.normal(jax.random.fold_in(stream, step), _SHAPE)
        smooth = 0.5 * curvature * (p - target) ** 2
        return size * jnp.sum(smooth + _NOISE * noise * p)

    gradient = jax.jit(jax.grad(loss))
    rate = optax.constant_schedule(_RATE)
    begin = contender.prepare(rate, _HYPERPARAMETERS, seed)
    session = begin({"p": start.astype(contender.kept)})
    before = None
    for step in range(steps):
        if step == steps // 2:
            before = session.second_moment()
        size = _GRADIENTS[step >= steps // 2]
        session.step(gradient(session.parameters(), step, size))
    assert before is not None
    return Trace(
        before=before,
        after=session.second_moment(),
        parameters=np.asarray(raised(session.parameters())["p"]),
        seconds=np.float64(time.perf_counter() - began),
    )


def _landscape(seed: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the start (exact in bfloat16 too), the minimum and the curvatures."""
    keys = jax.random.split(jax.random.key(seed), 4)
    start = 0.5 * jax.random.normal(keys[0], _SHAPE)
    start = start.astype(jnp.bfloat16).astype(jnp.float32)
    way = jax.random.rademacher(keys[1], _SHAPE, jnp.float32)
    target = start + way * jax.random.uniform(keys[2], _SHAPE, minval=1.0, maxval=2.0)
    return start, target, jax.random.uniform(keys[3], _SHAPE, minval=0.5, maxval=1.5)


def _mean(values: np.ndarray) -> dict[str, float]:
    error = float(values.std(ddof=1) / values.size**0.5)
    return {"mean": float(values.mean()), "error": error}


def _spread(figures: Mapping[str, float]) -> tuple[str, str, str]:
    mean, error = figures["mean"], figures["error"]
    if error == 0:
        return f"{mean:+.1e}", "0", ""
    ratio = f"{mean / error:+.1f}"
    if abs(mean) > _LIMIT * error:
        ratio = f"**{ratio}**"
    return f"{mean:+.1e}", f"{error:.1e}", ratio
