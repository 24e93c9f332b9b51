"""Compare ways to take one step of AdamW from the micro-batches of a window.

    python -m benchmarks.windows --output windows.json

The accumulator of `adamw(accumulate_steps=k)` is a buffer beside the moments, because
the second moment takes the square of the mean of the window. Two ways need no buffer,
as they add each micro-batch to the moments at once. With g_i the gradient of the i-th
of k micro-batches, the first moment of all three is exact, and the second moment adds

    mean      (1 - b2) ((g_1 + ... + g_k) / k)^2          AdamW of the whole batch
    adama     (1 - b2) ((g_1 / k)^2 + ... + (g_k / k)^2)  AdamA (arXiv 2305.19982)
    squares   (1 - b2) (g_1^2 + ... + g_k^2) / k

Each trains the perceptron of `benchmarks.precision.digits` with batches of 64 in k
parts, at each of several peaks of the learning rate, with several seeds. Beside the
loss on what was held out stands the median over the parameters of sqrt(v / v of mean),
of moments that see the gradients of the first way: steps are as much shorter.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import environment
from benchmarks.precision import digits
from benchmarks.precision.problem import Problem

B1, B2, EPS, DECAY = 0.9, 0.999, 1e-8, 0.1
WAYS = ("mean", "adama", "squares")
PARTS = (4, 16)
PEAKS = (1.5e-3, 3e-3, 6e-3, 1.2e-2, 2.4e-2, 4.8e-2)


def added(way: str, gradients: jax.Array) -> jax.Array:
    """Return what the second moment averages, of the gradients of a window."""
    parts = gradients.shape[0]
    if way == "mean":
        return jnp.mean(gradients, axis=0) ** 2
    return jnp.mean(gradients**2, axis=0) / (parts if way == "adama" else 1)


def trained(
    problem: Problem, way: str, parts: int, params: Any, batches: Any, peak: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the final loss, and the ratio of roots against the way of the mean."""
    rate = problem.rate()

    def step(carry: Any, given: Any) -> tuple[Any, None]:
        params, m, v, exact = carry
        index, batch = given
        cut = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
        gradients = jax.vmap(jax.grad(problem.loss), (None, 0))(params, cut)
        m = jax.tree.map(lambda m, g: B1 * m + (1 - B1) * g.mean(0), m, gradients)
        v, exact = (
            jax.tree.map(
                lambda v, g, w=w: B2 * v + (1 - B2) * added(w, g), v, gradients
            )
            for w, v in ((way, v), ("mean", exact))
        )
        count = index + 1

        def write(p: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
            root = jnp.sqrt(v / (1 - B2**count)) + EPS
            return p - peak * rate(index) * (m / (1 - B1**count) / root + DECAY * p)

        return (jax.tree.map(write, params, m, v), m, v, exact), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    start = params, zeros, zeros, zeros
    indices = jnp.arange(problem.steps)
    (params, _, v, exact), _ = jax.lax.scan(step, start, (indices, batches))
    ratios = jnp.concatenate(
        [
            jnp.where(b > 0, jnp.sqrt(a / b), jnp.nan).ravel()
            for a, b in zip(jax.tree.leaves(v), jax.tree.leaves(exact), strict=True)
        ]
    )
    return problem.loss(params, problem.heldout[0]), jnp.nanmedian(ratios)


def compared(problem: Problem, parts: int, seeds: int) -> dict[str, Any]:
    """Train all ways at all peaks with all seeds."""
    params, batches = [], []
    for seed in range(seeds):
        params.append(problem.initial(seed))
        draws = problem.batches(seed)
        batches.append([next(draws) for _ in range(problem.steps)])
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *params)
    drawn = [
        jnp.asarray(np.stack(x)) for x in zip(*map(_columns, batches), strict=True)
    ]
    found: dict[str, Any] = {}
    for way in WAYS:
        one = partial(trained, problem, way, parts)
        each = jax.jit(jax.vmap(jax.vmap(one, (0, 0, None)), (None, None, 0)))
        losses, ratios = each(stacked, tuple(drawn), jnp.asarray(PEAKS) / problem.peak)
        found[way] = {
            "losses": dict(zip(map(str, PEAKS), losses.tolist(), strict=True)),
            "root": dict(zip(map(str, PEAKS), ratios.mean(1).tolist(), strict=True)),
        }
    return found


def _columns(batches: list[Any]) -> list[np.ndarray]:
    return [np.stack(column) for column in zip(*batches, strict=True)]


def table(found: dict[str, Any]) -> str:
    """Return the mean loss at each peak, in a line for each way."""
    lines = []
    for parts, ways in found.items():
        for way, measured in ways.items():
            losses = {p: float(np.mean(x)) for p, x in measured["losses"].items()}
            cells = "  ".join(f"{peak}: {loss:.4f}" for peak, loss in losses.items())
            root = measured["root"][min(losses, key=lambda peak: losses[peak])]
            lines.append(f"{parts:>3} parts  {way:8} {cells}  root {root:.2f}")
    return "\n".join(lines)


def main() -> None:
    """Compare all ways, print a line for each, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--parts", type=int, nargs="+", default=PARTS)
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    environment.prepare(1)
    problem = digits.problem(chosen.steps)
    found = {
        str(parts): compared(problem, parts, chosen.seeds) for parts in chosen.parts
    }
    print(table(found))
    if chosen.output:
        about = {
            "versions": environment.versions(),
            "machine": environment.machine(),
            **environment.commit(),
            "threads": 1,
        }
        whole = {"steps": chosen.steps, "parts": found, "environment": about}
        chosen.output.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
