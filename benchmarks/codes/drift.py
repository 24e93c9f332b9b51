"""The drift of a moment over 6,000 requantisations, against a float32 moment.

The gradients of an element are independent normal numbers, the elements' sizes spread
over two decades. In a second phase all gradients are 100 times smaller: a code that
cannot take a small step down keeps the old moment for ever.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.codes.code import Array
from benchmarks.codes.rank_one import AnyCode

_SHAPE = (16, 256)
_SPREAD = 1.15  # Of the logarithm of the sizes: half a decade.
_SIGNAL = 0.3  # The constant part of a gradient, in units of its random part.
_QUIET = 0.01
NU_STEPS = (2000, 4000)
MU_STEPS = (2000, 500)
_AVERAGED = 1000
_EPS = 1e-8


def of_nu(code: AnyCode, b2: float) -> dict[str, float]:
    """Bias, spread and decay of a second moment that starts from zero.

    Returns:
        For the end of the first phase (`steady`) and of the second (`quiet`): the mean
        of coded / float32 less one, its standard deviation, and the relative RMS error
        of 1 / sqrt(nu). `decay` is how far nu has fallen in the second phase, against
        float32's: 1 is right, more is frozen.
    """
    loud = _run(code, b2, 2, NU_STEPS[0], 1.0, _starts(), 0)
    quiet = _run(code, b2, 2, NU_STEPS[1], _QUIET, loud[:2], 1)
    found: dict[str, float] = {}
    for name, (coded, exact, _, _) in (("steady", loud), ("quiet", quiet)):
        ratio = coded / exact
        found[f"{name}_bias"] = float(ratio.mean() - 1)
        found[f"{name}_noise"] = float(ratio.std())
        root_ratio = (jnp.sqrt(exact) + _EPS) / (jnp.sqrt(coded) + _EPS)
        found[f"{name}_update_error"] = _rms(root_ratio - 1)
    found["decay"] = float((quiet[0] / loud[1]).mean() / (quiet[1] / loud[1]).mean())
    return found


def of_mu(code: AnyCode, b1: float) -> dict[str, float]:
    """Gain and noise of a first moment whose gradients have a small constant part.

    Returns:
        `noise`: RMS of coded less float32, against the RMS of float32, in units of each
        element's size, at the end. `gain`: the same moment averaged over many steps,
        regressed on float32's, less one: the bias. `quiet_noise`: as `noise`, 500 steps
        after the gradients became 100 times smaller.
    """
    sizes = _sizes()
    loud = _run(code, b1, 1, MU_STEPS[0], 1.0, _starts(), 2)
    quiet = _run(code, b1, 1, MU_STEPS[1], _QUIET, loud[:2], 3)
    coded, exact, mean_coded, mean_exact = (part / sizes for part in loud)
    return {
        "noise": _rms(coded - exact) / _rms(exact),
        "gain": float((mean_coded * mean_exact).sum() / (mean_exact**2).sum() - 1),
        "quiet_noise": _rms((quiet[0] - quiet[1]) / sizes) / _rms(quiet[1] / sizes),
    }


def _sizes() -> Array:
    return jnp.exp(_SPREAD * jax.random.normal(jax.random.key(0), _SHAPE))


def _starts() -> tuple[Array, Array]:
    return jnp.zeros(_SHAPE), jnp.zeros(_SHAPE)


@partial(jax.jit, static_argnums=(0, 2, 3))
def _run(
    code: AnyCode,
    decay: float,
    order: int,
    steps: int,
    scale: float,
    start: tuple[Array, Array],
    seed: int,
) -> Any:
    """Returns the coded moment, float32's, and both means over the last steps."""
    sizes = _sizes() * scale
    root = jax.random.fold_in(jax.random.key(1), seed)

    def step(index: Array, carry: Any) -> Any:
        stored, exact, sum_coded, sum_exact = carry
        noisy, random = jax.random.split(jax.random.fold_in(root, index))
        gradient = sizes * (_SIGNAL + jax.random.normal(noisy, _SHAPE))
        share = (1 - decay) * gradient**order
        coded = decay * code.load(stored, _SHAPE) + share
        exact = decay * exact + share
        stored = code.store(coded, jax.random.bits(random, _SHAPE, jnp.uint32))
        counts = index >= steps - _AVERAGED
        sum_coded += jnp.where(counts, code.load(stored, _SHAPE), 0)
        sum_exact += jnp.where(counts, exact, 0)
        return stored, exact, sum_coded, sum_exact

    zeros = jnp.zeros(_SHAPE)
    first = code.store(start[0], jnp.zeros(_SHAPE, jnp.uint32))
    carry = first, start[1], zeros, zeros
    stored, exact, *sums = jax.lax.fori_loop(0, steps, step, carry)
    return code.load(stored, _SHAPE), exact, *(s / _AVERAGED for s in sums)


def _rms(values: Array) -> float:
    return float(jnp.sqrt((values**2).mean()))
