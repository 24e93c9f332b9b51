"""Running means stay where float64 has them, over a million steps.

Gradients and parameters are random numbers with a mean of their own in each element.
The error of a mean is relative to float64, and averaged over the elements: each of them
wanders by rounding, and together they tell a drift. One step cannot tell it.

Scales are spread over a decade, so that rounding has no phase that all elements share.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from scipy.signal import lfilter

import optadamw
from tests.campaigns.campaign import Case

BETAS = (0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999, 0.9999999)
STEPS, PIECE = 1_000_000, 10_000
ELEMENTS = 256

EXACT = 1e-6
"""The most that a mean in float32 is off, for beta up to 0.99999."""

BEYOND = {0.999999: 2e-5, 0.9999999: 2e-5}
"""Above, most steps are small beside the last place of a float32 number."""

FORMS: dict[str, dict[str, Any]] = {
    "float32": {},
    "warm-up": {"ema_warmup": True},
    "debiased": {"ema_debias": True},
    "16 bits": dict.fromkeys(
        ("mu_dtype", "nu_dtype", "ema_dtype"), optadamw.stochastic("bfloat16")
    ),
    "8 bits": dict.fromkeys(("mu_dtype", "nu_dtype"), optadamw.blockwise(min_size=0)),
}
BUFFERS = {"mu": 1, "nu": 2, "nu_max": 2, "ema": 1}
"""The buffers, and the power of the gradient in each."""


def cases(full: bool) -> Iterator[Case]:
    """Every form and beta over 1e6 steps; a few over 2e4 steps if not `full`."""
    if full:
        for form in FORMS:
            for beta in BETAS:
                yield Case(f"{form}, {beta}", partial(stays, form, beta, STEPS))
        return
    for form in ("float32", "warm-up"):
        yield Case(f"{form}, 0.999", partial(stays, form, 0.999, 2 * PIECE))


def stays(form: str, beta: float, steps: int) -> str:
    """The mean error of each buffer is within its limit and four standard errors."""
    told, failed = [f"{steps} steps"], []
    for name, (ours, exact) in run(FORMS[form], beta, steps).items():
        off = (ours - exact) / np.mean(exact)
        mean, error = float(np.mean(off)), float(np.std(off)) / ELEMENTS**0.5
        told.append(f"{name} {mean:+.1e} ± {error:.0e}")
        # The maximum of a moment that is rounded at random is that of its noise too.
        is_held = name != "nu_max" or form not in ("16 bits", "8 bits")
        if is_held and abs(mean) > BEYOND.get(beta, EXACT) + 4 * error:
            failed.append(name)
    text = "; ".join(told)
    assert not failed, f"{', '.join(failed)} drifted: {text}"
    return text


def run(
    options: dict[str, Any], beta: float, steps: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return each buffer after so many steps, and as float64 has it.

    Both are divided by the scale of their element. The average starts at half of the
    mean of the parameters, from which it moves.
    """
    tx = optadamw.adamw(
        0.0,
        b1=beta,
        b2=beta,
        weight_decay=0.0,
        amsgrad="raw",
        ema_decay=beta,
        **options,
    )
    rng = np.random.default_rng(0)
    scale = (10.0 ** rng.uniform(-0.5, 0.5, ELEMENTS)).astype(np.float32)
    start = 0.5 * scale

    def step(state: Any, drawn: jax.Array) -> Any:
        return tx.update({"w": drawn}, state, {"w": drawn})[1], None

    piece = jax.jit(lambda state, drawn: jax.lax.scan(step, state, drawn)[0])
    state = tx.init({"w": start})
    exact = {name: np.zeros(ELEMENTS) for name in BUFFERS} | {
        "ema": start.astype(float)
    }
    for first in range(0, steps, PIECE):
        drawn = scale * (1 + 0.5 * rng.standard_normal((PIECE, ELEMENTS), np.float32))
        state = piece(state, drawn)
        exact = _moved(exact, drawn.astype(float), beta, _kept(options, beta, first))
    ours = {
        "mu": optadamw.dequantize(state).mu["w"],
        "nu": optadamw.dequantize(state).nu["w"],
        "nu_max": optadamw.dequantize(state).nu_max["w"],
        "ema": state.ema["w"],
    }
    own = scale.astype(float)
    return {
        name: (np.asarray(x, float) / own**power, exact[name] / own**power)
        for (name, x), power in zip(ours.items(), BUFFERS.values(), strict=True)
    }


def _kept(options: dict[str, Any], beta: float, first: int) -> np.ndarray:
    """Return the weight of the old average in each step of a piece."""
    t = np.arange(first + 1, first + PIECE + 1, dtype=float)
    if options.get("ema_warmup"):
        return np.minimum(beta, (1 + t) / (10 + t))
    if options.get("ema_debias"):
        return 1 - (1 - beta) / -np.expm1(t * np.log(beta))
    return np.full(PIECE, beta)


def _moved(
    means: dict[str, np.ndarray], drawn: np.ndarray, beta: float, kept: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the means after a piece, in float64."""
    filtered = {
        name: lfilter([1 - beta], [1, -beta], y, axis=0, zi=[beta * means[name]])[0]
        for name, y in (("mu", drawn), ("nu", drawn * drawn))
    }
    ema = means["ema"]
    if np.all(kept == beta):
        ema = lfilter([1 - beta], [1, -beta], drawn, axis=0, zi=[beta * ema])[0][-1]
    else:
        for keep, y in zip(kept, drawn, strict=True):
            ema = ema + (1 - keep) * (y - ema)
    largest = np.maximum(means["nu_max"], filtered["nu"].max(axis=0))
    return {name: x[-1] for name, x in filtered.items()} | {
        "nu_max": largest,
        "ema": ema,
    }
