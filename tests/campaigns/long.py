"""Long trainings: `precision="compact"` ends where float32 ends.

Both start from the same numbers and see the same batches: a quadratic with noise, an
embedding most of whose rows are seldom drawn, and a small transformer on text. The full
form takes 20,000 steps.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import optadamw
from benchmarks.precision import text, transformer
from benchmarks.precision.problem import raised
from tests.campaigns.campaign import Case

STEPS, PIECE = 20_000, 500
ULP = float(jnp.finfo(jnp.bfloat16).eps)
"""2^-7, the distance of neighbors among bfloat16 numbers, relative to them, at most."""


@dataclass(frozen=True)
class Training:
    """A problem: first parameters, a loss, and the rate at which they are trained."""

    params: Any
    loss: Callable[[Any, jax.Array], jax.Array]
    """The loss of float32 parameters, on the batch that a key draws."""
    rate: float


def cases(full: bool) -> Iterator[Case]:
    """Train each for 20,000 steps, and in the short form two of them for 100."""
    steps = STEPS if full else 100
    yield Case("quadratic", partial(_nearer, quadratic(), steps))
    yield Case("embedding", partial(_nearer, embedding(), steps))
    if full:
        yield Case("transformer", partial(_learned, decoder(), steps))


def trained(training: Training, precision: str, steps: int) -> tuple[Any, np.ndarray]:
    """Return the parameters at the end, in float32, and the loss of every step."""
    rate = optadamw.schedules.warmup_cosine_decay_schedule(
        0.0, training.rate, steps // 20, steps, training.rate / 100
    )
    tx = optadamw.adamw(rate, weight_decay=0.0, precision=precision)
    kept = jnp.bfloat16 if precision == "compact" else jnp.float32
    params = jax.tree.map(lambda p: p.astype(kept), training.params)

    def step(carry: Any, key: jax.Array) -> Any:
        params, state = carry
        loss, grads = jax.value_and_grad(lambda p: training.loss(raised(p), key))(
            params
        )
        return tuple(tx.step(grads, state, params)), loss

    piece = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys))
    carry, losses = (params, tx.init(params)), []
    keys = jax.random.split(jax.random.key(0), steps)
    for first in range(0, steps, PIECE):
        carry, found = piece(carry, keys[first : first + PIECE])
        losses.append(np.asarray(found))
    assert int(carry[1].step) == steps
    return raised(carry[0]), np.concatenate(losses)


# --- Trainings towards known targets -------------------------------------------------


@dataclass(frozen=True)
class Search(Training):
    """A training whose minimum is known."""

    target: jax.Array
    parts: dict[str, np.ndarray]
    """Rows of the parameter that are judged together."""


def quadratic() -> Search:
    """0.5 c (p - target)^2 with curvatures from 0.01 to 100 and noisy gradients.

    Moments in 8 bits hold numbers down to 2^-15 of the largest of their block.
    """
    rng = np.random.default_rng(0)
    target = jnp.asarray(rng.normal(size=(64, 256)), jnp.float32)
    curvature = jnp.asarray(10.0 ** rng.uniform(-2, 2, (64, 256)), jnp.float32)

    def loss(params: Any, key: jax.Array) -> jax.Array:
        noise = 0.1 * jax.random.normal(key, target.shape)
        off = params["w"] - target
        return jnp.sum(curvature * (0.5 * off * off + noise * off))

    parts = {"all": np.arange(64)}
    return Search({"w": jnp.zeros((64, 256))}, loss, 1e-2, target, parts)


def embedding() -> Search:
    """Rows that are drawn by Zipf's law; those that are not have zero gradients."""
    rng = np.random.default_rng(0)
    rows, width, drawn = 1024, 64, 32
    target = jnp.asarray(rng.normal(size=(rows, width)), jnp.float32)
    odds = jnp.log(1.0 / jnp.arange(1, rows + 1))

    def loss(params: Any, key: jax.Array) -> jax.Array:
        one, two = jax.random.split(key)
        ids = jax.random.categorical(one, odds, shape=(drawn,))
        noise = 0.1 * jax.random.normal(two, (drawn, width))
        return jnp.sum((params["w"][ids] - target[ids] + noise) ** 2) / drawn

    order = np.arange(rows)
    parts = {"frequent": order[:32], "common": order[32:256], "rare": order[256:]}
    return Search({"w": jnp.zeros((rows, width))}, loss, 1e-2, target, parts)


def _nearer(search: Search, steps: int) -> str:
    """The distance from the target is that of float32 and of rounding to bfloat16."""
    told = [f"{steps} steps"]
    full, compact = (
        np.asarray(trained(search, precision, steps)[0]["w"], np.float64)
        for precision in ("full", "compact")
    )
    target = np.asarray(search.target, np.float64)
    for name, rows in search.parts.items():
        ours, theirs = (_distance(x[rows], target[rows]) for x in (compact, full))
        told.append(f"{name} rows: {ours:.4f} from the target, float32 {theirs:.4f}")
        size = _distance(target[rows], 0.0)
        assert ours <= 1.05 * theirs + ULP * size, "; ".join(told)
    return "; ".join(told)


def _distance(x: np.ndarray, y: np.ndarray | float) -> float:
    return float(np.sqrt(np.mean((x - y) ** 2)))


# --- Text ----------------------------------------------------------------------------


def decoder() -> Training:
    """The decoder of `benchmarks.precision`, on windows of its text."""
    problem = transformer.problem()
    found = jnp.asarray(text.split(text.corpus()[0])[0])
    window, batch = next(problem.batches(0)).shape[::-1]

    def loss(params: Any, key: jax.Array) -> jax.Array:
        starts = jax.random.randint(key, (batch,), 0, len(found) - window)
        return problem.loss(params, found[starts[:, None] + jnp.arange(window)])

    return Training(problem.initial(0), loss, 3e-3)


def _learned(training: Training, steps: int) -> str:
    """The loss of the last tenth is that of float32, or 2 % above."""
    full, compact = (
        float(np.mean(trained(training, precision, steps)[1][-(steps // 10) :]))
        for precision in ("full", "compact")
    )
    told = f"{steps} steps; loss {compact:.4f}, float32 {full:.4f}"
    assert compact <= 1.02 * full, told
    return told
