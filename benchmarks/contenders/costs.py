"""Programs that only move memory: no optimizers, and not checked."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.contenders.contender import Program
from benchmarks.contenders.on_jax import contender
from benchmarks.workloads import Config


def _itself(carry: Any) -> Any:
    return carry


def _add(config: Config, tree: Any) -> Program:
    """`acc += g` in place: two reads and a write of the parameters' size."""
    del config, tree

    def init(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params)

    def step(gradients: Any, carry: Any) -> Any:
        return jax.tree.map(jnp.add, carry, gradients)

    return Program(step, init, parameters=_itself, average=_itself)


def _set_or_add(config: Config, tree: Any) -> Program:
    """Accumulate with `acc = g` in the first call of a window, which saves the zeroing.

    The selection looks like more work, and XLA's CPU backend makes it 1.3 to 1.9 times
    as fast as the addition alone: it is the nearer bound.
    """
    del tree

    def init(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params), jnp.zeros((), jnp.int32)

    def step(gradients: Any, carry: Any) -> Any:
        sums, call = carry
        first = call % config.window == 0
        sums = jax.tree.map(lambda s, g: jnp.where(first, 0, s) + g, sums, gradients)
        return sums, call + 1

    return Program(step, init, parameters=lambda c: c[0], average=_itself)


def _read(config: Config, tree: Any) -> Program:
    """The sum of every gradient: one read of the parameters' size.

    No faster reduction was found (sums of squares, by rows, in blocks, products with a
    vector of ones). At best it takes 2.0 ms on `large`, as `set-or-add` takes 5.3 ms
    for three times the traffic: memory bounds it.
    """
    del config, tree

    def init(params: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), params)

    def step(gradients: Any, carry: Any) -> Any:
        return jax.tree.map(lambda total, g: total + jnp.sum(g), carry, gradients)

    return Program(step, init, parameters=_itself, average=_itself)


ADD = dataclasses.replace(contender(_add), checked=False)
SET_OR_ADD = dataclasses.replace(contender(_set_or_add), checked=False)
READ = dataclasses.replace(contender(_read), checked=False)
