"""Steps of every arithmetic option against float64, in units in the last place.

Each case draws a state, gradients over seven decades, a step count and all numbers. An
error is divided by the condition number of the sum that makes the update: where its
terms cancel, only their rounding is left. A float32 update may be off by 8 ULP, and by
2 more for each clip by a norm and for a weighted mean, whose factors are sums in
float32. A parameter of 16 bits is rounded once: by at most 0.51 ULP, or where the
parameter and its update cancel, by 0.5 ULP and 0.0025 for each condition number.
"""

import functools
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

import optadamw
from tests.campaigns.campaign import Case
from tests.support import floats, oracle

ELEMENTS = 20_000
STEPS = (1, 2, 3, 10, 100, 10**3, 10**5, 10**7)
B2 = (0.95, 0.99, 0.999, 0.9999, 0.99999, 0.9999999)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "nesterov, hat, two clips": {
        **{"nesterov": "current", "eps_mode": "hat"},
        **{"clip_norm": 1e3, "clip_global_norm": 3e2},
    },
    "nesterov": {"nesterov": True},
    "hat": {"eps_mode": "hat"},
    "no correction": {"bias_correction": False},
    "amsgrad": {"amsgrad": "raw"},
    "amsgrad, corrected": {"amsgrad": "corrected"},
    "clip of values": {"clip_value": 1.0},
    "independent decay": {"weight_decay_mode": "independent"},
    "maximize": {"maximize": True},
}
NARROW = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
WINDOW = 4


def cases(full: bool) -> Iterator[Case]:
    """All options, 20 draws each; one draw of the first two options if not `full`."""
    options = list(OPTIONS)[: None if full else 2]
    for seed in range(20 if full else 1):
        for name in options:
            yield Case(f"{name}, draw {seed}", partial(one_step, name, seed))
            for dtype in NARROW if full else ["bfloat16"]:
                title = f"{name}, {dtype}, draw {seed}"
                yield Case(title, partial(rounded_once, name, dtype, seed))
        yield Case(f"groups, draw {seed}", partial(groups, seed))
        for taken in (WINDOW, WINDOW - 1):
            title = "weights" if taken == WINDOW else "weights and flush"
            yield Case(f"{title}, draw {seed}", partial(weights, taken, seed))
        yield Case(f"100 steps, draw {seed}", partial(hundred_steps, seed))


def drawn(seed: int, dtype: Any = np.float32) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays of one parameter, and the numbers of a step."""
    rng = np.random.default_rng(seed)
    size = 10.0 ** rng.uniform(-5, 2, ELEMENTS)
    nu = (rng.normal(size=ELEMENTS) * size) ** 2
    arrays = {
        "params": rng.normal(size=ELEMENTS).astype(dtype),
        "grads": (rng.normal(size=ELEMENTS) * size).astype(np.float32),
        "mu": (rng.normal(size=ELEMENTS) * size).astype(np.float32),
        "nu": nu.astype(np.float32),
        "nu_max": (nu * rng.uniform(0.5, 2, ELEMENTS)).astype(np.float32),
    }
    numbers = {
        "learning_rate": 10 ** rng.uniform(-4, -1),
        "b1": rng.choice([0.5, 0.8, 0.9, 0.95, 0.99]),
        "b2": rng.choice(B2),
        "eps": rng.choice([0.0, 1e-8, 1e-3]),
        "weight_decay": rng.choice([0.0, 1e-2, 0.1]),
    }
    numbers = {name: np.float32(value) for name, value in numbers.items()}
    return arrays, numbers | {"t": np.int32(rng.choice(STEPS))}


def one_step(name: str, seed: int) -> str:
    """The update of a float32 parameter."""
    arrays, numbers = drawn(seed)
    options = OPTIONS[name]
    update, _ = _program(name, "update")(arrays, numbers)
    expected = _expected(options, arrays, numbers)
    norms = sum(word in options for word in ("clip_norm", "clip_global_norm"))
    return _within(8 + 2 * norms, update, expected)


def rounded_once(name: str, dtype: str, seed: int) -> str:
    """The parameter of 16 bits that `step` writes."""
    arrays, numbers = drawn(seed, NARROW[dtype])
    written, _ = _program(name, "step")(arrays, numbers)
    assert written.dtype == NARROW[dtype]
    expected = _expected(OPTIONS[name], arrays, numbers)
    target = expected.target["p"]
    error = floats.ulps(written, target, NARROW[dtype])
    terms = np.abs(arrays["params"].astype(float)) + expected.scale["p"]
    condition = terms / np.maximum(np.abs(target), 1e-300)
    usual, excess = np.max(error[condition <= 4]), np.max((error - 0.5) / condition)
    told = f"{usual:.4f} ULP, and {excess:.4f} beyond 0.5 per condition number"
    assert usual <= 0.51, told
    assert excess <= 0.0025, told
    return told


@functools.cache
def _program(name: str, method: str) -> Any:
    def run(arrays: Mapping[str, Any], numbers: Mapping[str, Any]) -> Any:
        numbers = dict(numbers)
        t = numbers.pop("t")
        tx = optadamw.adamw(**numbers, **OPTIONS[name], commit="nearest")
        params, state = _before(tx, arrays, t)
        out, state = getattr(tx, method)({"p": arrays["grads"]}, state, params)
        return out["p"], state

    return jax.jit(run)


def _before(
    tx: optadamw.Transformation, arrays: Mapping[str, Any], t: Any
) -> tuple[dict[str, Any], optadamw.State]:
    params = {"p": jnp.asarray(arrays["params"])}
    state = tx.init(params)
    names = ("mu", "nu", "nu_max") if state.nu_max is not None else ("mu", "nu")
    buffers = {name: {"p": jnp.asarray(arrays[name])} for name in names}
    return params, state._replace(step=t - 1, **buffers)


def _expected(
    options: Mapping[str, Any], arrays: Mapping[str, Any], numbers: Mapping[str, Any]
) -> oracle.Outcome:
    numbers = {name: float(value) for name, value in numbers.items()}
    t = int(numbers.pop("t"))
    adamw = oracle.AdamW(**numbers, **options)
    buffers = {k: {"p": arrays[k].astype(float)} for k in ("mu", "nu", "nu_max")}
    state = oracle.State(t - 1, **buffers)
    return adamw.step({"p": arrays["grads"]}, state, {"p": arrays["params"]})


def _within(
    limit: float, update: Any, expected: oracle.Outcome, name: str = "p"
) -> str:
    """Check an update in units of the condition number of its sum."""
    exact = expected.update[name]
    with np.errstate(divide="ignore", invalid="ignore"):
        condition = np.where(exact == 0, 1, expected.scale[name] / np.abs(exact))
        error = floats.ulps(update, exact, np.float32) / condition
    told = f"median {np.median(error):.1f}, largest {np.max(error):.1f} ULP"
    assert np.max(error) <= limit, told
    return told


def groups(seed: int) -> str:
    """Two parameters, one with numbers of its own, under one global norm."""
    arrays, numbers = drawn(seed)
    others, own = drawn(1000 + seed)
    own = {k: own[k] for k in ("learning_rate", "b1", "b2", "weight_decay")}
    update = _grouped(arrays, others, numbers, own)
    exact = {name: float(value) for name, value in numbers.items() if name != "t"}
    group = {name: float(value) for name, value in own.items()}
    adamw = oracle.AdamW(
        **exact, clip_global_norm=3e2, groups=((frozenset({"q"}), group),)
    )
    both = {k: {"p": arrays[k], "q": others[k]} for k in arrays}
    moments = {
        k: {name: x.astype(float) for name, x in both[k].items()} for k in ("mu", "nu")
    }
    state = oracle.State(int(numbers["t"]) - 1, **moments)
    expected = adamw.step(both["grads"], state, both["params"])
    return "; ".join(_within(10, update[name], expected, name) for name in ("p", "q"))


@jax.jit
def _grouped(arrays: Any, others: Any, numbers: Any, own: Any) -> Any:
    both = {name: {"p": arrays[name], "q": others[name]} for name in arrays}
    numbers = dict(numbers)
    t = numbers.pop("t")
    tx = optadamw.adamw(**numbers, clip_global_norm=3e2, groups={"q": own})
    state = tx.init(both["params"])._replace(step=t - 1, mu=both["mu"], nu=both["nu"])
    return tx.update(both["grads"], state, both["params"])[0]


def weights(taken: int, seed: int) -> str:
    """A window of weighted gradients of one sign; a partial one ends with `flush`."""
    arrays, numbers = drawn(seed)
    rng = np.random.default_rng(seed)
    shares = rng.uniform(0.1, 2, (taken, 1)).astype(np.float32)
    parts = (arrays["grads"] * rng.uniform(0.5, 2, (taken, ELEMENTS))).astype("f4")
    # From zero, the new parameter is the update.
    arrays["params"] = np.zeros_like(arrays["params"])
    written = _weighted(taken)(arrays, parts, shares, numbers)
    wide = shares.astype(float)
    arrays["grads"] = (wide * parts).sum(axis=0) / wide.sum()
    return _within(10, written, _expected({}, arrays, numbers))


@functools.cache
def _weighted(taken: int) -> Any:
    def run(arrays: Any, parts: Any, shares: Any, numbers: Any) -> Any:
        numbers = dict(numbers)
        t = numbers.pop("t")
        tx = optadamw.adamw(**numbers, accumulate_steps=WINDOW)
        params, state = _before(tx, arrays, t)
        for i in range(taken):
            weight = shares[i, 0]
            params, state = tx.step({"p": parts[i]}, state, params, weight=weight)
        if taken < WINDOW:
            params, state = tx.flush(state, params)
        return params["p"]

    return jax.jit(run)


def hundred_steps(seed: int) -> str:
    """100 steps from one start: the largest distance in learning rates."""
    rng, rate = np.random.default_rng(seed), 1e-3
    start = rng.normal(size=ELEMENTS).astype(np.float32)
    gradients = rng.normal(size=(100, ELEMENTS)).astype(np.float32)
    found = np.asarray(_trained(start, gradients), np.float64)
    adamw = oracle.AdamW(rate, weight_decay=0.01, rounded=False)
    expected, _ = adamw.run([{"p": g} for g in gradients], {"p": start})
    worst = np.max(np.abs(found - expected["p"])) / rate
    assert worst <= 3e-3, f"{worst:.1e} learning rates"
    return f"{worst:.1e} learning rates"


@jax.jit
def _trained(start: Any, gradients: Any) -> Any:
    tx = optadamw.adamw(1e-3, weight_decay=0.01)

    def one(carry: Any, g: Any) -> Any:
        return tx.step({"p": g}, carry[1], carry[0]), None

    params = {"p": start}
    return jax.lax.scan(one, (params, tx.init(params)), gradients)[0][0]["p"]
