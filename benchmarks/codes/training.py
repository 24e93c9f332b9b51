"""AdamW in plain JAX, whose moments go through codes after every step."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.codes.code import Array
from benchmarks.codes.rank_one import AnyCode
from benchmarks.precision.problem import Problem

B1, B2, EPS, DECAY = 0.9, 0.999, 1e-8, 0.1


class Pair(NamedTuple):
    """The code of both moments; None keeps float32."""

    mu: AnyCode | None
    nu: AnyCode | None


class Run(NamedTuple):
    """The parameters and moments after a step."""

    step: int
    params: Any
    mu: Any
    nu: Any


def gradient_of(problem: Problem) -> Callable[..., Any]:
    """The compiled gradient; one for all pairs, as it takes longest to compile."""
    return jax.jit(jax.grad(problem.loss))


def trained(
    problem: Problem, gradient: Callable[..., Any], pair: Pair, seed: int
) -> Iterator[Run]:
    """Trains, and yields after every step.

    Nothing is donated, so that what was yielded stays.
    """
    params = problem.initial(seed)
    rate = problem.rate()
    moments = [jax.tree.map(jnp.zeros_like, params)] * 2
    kept = [_stored(pair[i], moments[i], jax.random.key(0)) for i in range(2)]
    step = _step_of(pair)
    batches = problem.batches(seed)
    for index in range(problem.steps):
        gradients = gradient(params, next(batches))
        key = jax.random.fold_in(jax.random.key(seed), index)
        params, *kept = step(params, *kept, gradients, rate(index), index + 1, key)
        yield Run(index + 1, params, *kept)


def final_loss(
    problem: Problem, gradient: Callable[..., Any], pair: Pair, seed: int
) -> float:
    """The mean loss on what was held out, after the last step."""
    for run in trained(problem, gradient, pair, seed):
        last = run
    loss = jax.jit(problem.loss)
    return float(np.mean([loss(last.params, batch) for batch in problem.heldout]))


_STEPS: dict[Pair, Callable[..., Any]] = {}


def _step_of(pair: Pair) -> Callable[..., Any]:
    if pair not in _STEPS:  # Compiled once for all seeds.
        _STEPS[pair] = jax.jit(lambda *arguments: _step(pair, *arguments))
    return _STEPS[pair]


def _step(
    pair: Pair,
    params: Any,
    mu: Any,
    nu: Any,
    gradients: Any,
    rate: Array,
    count: Array,
    key: Array,
) -> Any:
    mu, nu = _loaded(pair.mu, mu, params), _loaded(pair.nu, nu, params)
    mu = jax.tree.map(lambda m, g: B1 * m + (1 - B1) * g, mu, gradients)
    nu = jax.tree.map(lambda n, g: B2 * n + (1 - B2) * g * g, nu, gradients)

    def write(p: Array, m: Array, n: Array) -> Array:
        update = (m / (1 - B1**count)) / (jnp.sqrt(n / (1 - B2**count)) + EPS)
        return p - rate * (update + DECAY * p)

    # The step uses the moments before they are rounded.
    params = jax.tree.map(write, params, mu, nu)
    keys = jax.random.split(key)
    return params, _stored(pair.mu, mu, keys[0]), _stored(pair.nu, nu, keys[1])


def _stored(code: AnyCode | None, moment: Any, key: Array) -> Any:
    if code is None:
        return moment
    leaves = jax.tree.leaves(moment)
    keys = jax.random.split(key, len(leaves))
    return [
        code.store(leaf, jax.random.bits(key, leaf.shape, jnp.uint32))
        for leaf, key in zip(leaves, keys, strict=True)
    ]


def _loaded(code: AnyCode | None, kept: Any, params: Any) -> Any:
    if code is None:
        return kept
    leaves, tree = jax.tree.flatten(params)
    loaded = [code.load(k, p.shape) for k, p in zip(kept, leaves, strict=True)]
    return jax.tree.unflatten(tree, loaded)
