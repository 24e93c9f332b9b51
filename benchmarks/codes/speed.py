"""Time and temporaries that a code adds to a compiled step of one large leaf."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.codes.code import Array
from benchmarks.codes.rank_one import AnyCode
from benchmarks.codes.training import B1, B2, DECAY, EPS, Pair
from optadamw.base.random_bits import Site, bits_at

_RATE = 1e-3


def compare(
    pairs: dict[str, Pair], shape: tuple[int, int], rounds: int
) -> dict[str, dict[str, float]]:
    """Times the update of one leaf for every pair, in turn.

    Returns:
        For each pair the median over the rounds of its time against float32's of the
        same round, the median seconds, the bytes of temporaries for each parameter,
        and the bytes of state for each parameter.
    """
    pairs = {"float32": Pair(None, None), **pairs}
    steps = {name: _compiled(pair, shape) for name, pair in pairs.items()}
    times: dict[str, list[float]] = {name: [] for name in pairs}
    order = np.random.default_rng(0)
    gradient = jax.random.normal(jax.random.key(1), shape) * 1e-3
    carries = {name: _start(pair, shape) for name, pair in pairs.items()}
    for count in range(rounds + 1):  # The first round fills the caches.
        for name in order.permutation(list(pairs)):
            begin = time.perf_counter()
            carry = steps[name](carries[name], gradient, jnp.float32(count + 1))
            carries[name] = jax.block_until_ready(carry)
            times[name].append(time.perf_counter() - begin)
    base = np.array(times["float32"][1:])
    size = shape[0] * shape[1]
    return {
        name: {
            "ratio": float(np.median(np.array(times[name][1:]) / base)),
            "seconds": float(np.median(times[name][1:])),
            "temporary_bytes": steps[name].memory_analysis().temp_size_in_bytes / size,
            "state_bytes": sum(32 if c is None else c.bits for c in pairs[name]) / 8,
        }
        for name in pairs
    }


def _start(pair: Pair, shape: tuple[int, int]) -> Any:
    zeros, drawn = jnp.zeros(shape), jax.random.normal(jax.random.key(0), shape)
    bits = jnp.zeros(shape, jnp.uint32)
    return jnp.copy(drawn), *(
        jnp.copy(zeros) if code is None else jax.jit(code.store)(zeros, bits)
        for code in pair
    )


def _compiled(pair: Pair, shape: tuple[int, int]) -> Callable[..., Any]:
    def load(code: AnyCode | None, kept: Any) -> Array:
        return kept if code is None else code.load(kept, shape)

    def store(code: AnyCode | None, moment: Array, key: Array) -> Any:
        if code is None:
            return moment
        return code.store(moment, bits_at(Site(key, jnp.int32(0)), shape))

    def step(carry: Any, gradient: Array, count: Array) -> Any:
        params, mu, nu = carry
        mu = B1 * load(pair.mu, mu) + (1 - B1) * gradient
        nu = B2 * load(pair.nu, nu) + (1 - B2) * gradient * gradient
        root = jnp.sqrt(nu / (1 - B2**count)) + EPS
        params = params - _RATE * (mu / (1 - B1**count) / root + DECAY * params)
        key = count.astype(jnp.uint32)
        return params, store(pair.mu, mu, key), store(pair.nu, nu, ~key)

    carry = jax.eval_shape(lambda: _start(pair, shape))
    leaf, number = (jax.ShapeDtypeStruct(s, jnp.float32) for s in (shape, ()))
    return jax.jit(step, donate_argnums=0).lower(carry, leaf, number).compile()
