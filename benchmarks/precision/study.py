"""Runs: each contender on each problem, once for each seed."""

import importlib.metadata
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import environment
from benchmarks.precision.contenders import HYPERPARAMETERS, Contender, Start
from benchmarks.precision.problem import Problem, raised


def versions() -> dict[str, str | None]:
    """Reads the versions of everything that takes part."""
    found = environment.versions()
    for package in ("torchao", "bitsandbytes", "flashoptim-jax", "scikit-learn"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def runs(
    problem: Problem, contender: Contender, seeds: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Trains once for each seed.

    Args:
        problem: What is trained.
        contender: Who trains it.
        seeds: Of first weights and batches.

    Yields:
        The final loss on what was held out, the mean loss of the last tenth of the
        steps, bytes for each parameter, and seconds.
    """
    rate, start = problem.rate(), None
    gradient = jax.jit(
        jax.value_and_grad(lambda params, batch: problem.loss(raised(params), batch))
    )
    judge = _judge(problem)
    for seed in seeds:
        if start is None or contender.draws:
            start = contender.prepare(rate, HYPERPARAMETERS, seed)
        yield {"seed": seed} | _run(problem, contender, start, gradient, judge, seed)


def _run(
    problem: Problem,
    contender: Contender,
    start: Start,
    gradient: Callable[..., Any],
    judge: Callable[[Any], float],
    seed: int,
) -> dict[str, Any]:
    began = time.perf_counter()
    first = jax.tree.map(lambda p: p.astype(contender.kept), problem.initial(seed))
    session = start(first)
    losses = []
    for _, batch in zip(range(problem.steps), problem.batches(seed), strict=False):
        loss, gradients = gradient(session.parameters(), batch)
        session.step(gradients)
        losses.append(loss)
    count = sum(p.size for p in jax.tree.leaves(first))
    last = losses[-problem.steps // 10 :]
    return {
        "loss": _written(judge(session.parameters())),
        "training_loss": _written(np.mean(jax.device_get(last))),
        "bytes_per_parameter": session.kept_bytes() / count,
        "seconds": time.perf_counter() - began,
    }


def _written(number: float) -> float | str:
    """The number, or its name where JSON has none: a run may end in NaN."""
    return float(number) if math.isfinite(number) else str(float(number))


def _judge(problem: Problem) -> Callable[[Any], float]:
    heldout = jax.tree.map(lambda *parts: jnp.stack(parts), *problem.heldout)

    @jax.jit
    def mean(params: Any, heldout: Any) -> jax.Array:
        params = raised(params)
        return jax.lax.map(lambda batch: problem.loss(params, batch), heldout).mean()

    return lambda params: float(mean(params, heldout))
