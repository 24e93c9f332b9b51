"""Measure the checkout that is first on the path; run by `process.py`, as a script.

A checkout may be older than this file, so the script uses only public names of
optadamw and the table of transformations in the tests. It reads one request per line
from its input and writes one answer per line, both JSON.
"""

import functools
import gc
import hashlib
import importlib
import importlib.util
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optadamw

Answer = dict[str, Any]

STEPS, UPDATES = 20, 5
POISONED = 7
"""The step with a NaN in its gradients, where a guard is there to refuse it."""

FLUSHED = (0, 12, 17)
"""The steps after which the window is flushed, and goes on, where gradients are
accumulated: windows of 2 and 3 are open after the first two, closed after the last."""

LEAVES = {
    "kernel": (jnp.float32, (16, 25)),
    "kernel_tall": (jnp.float32, (130, 3)),
    "bias": (jnp.bfloat16, (60,)),
    "scale": (jnp.float16, ()),
    "phase": (jnp.complex64, (2, 3)),
    "empty": (jnp.float32, (0, 2)),
}
"""Every dtype that needs no x64, a 0-d leaf and one without elements."""

TABLES = ("tests.support.transformations", "tests.transformations")
_CLIPPED = {"learning_rate": 1e-3, "clip_global_norm": 1.0, "ema_decay": 0.99}
TIMED = {
    "adamw": {"learning_rate": 1e-3},
    "adamw, clip, average": _CLIPPED,
    "adamw, clip, average, guard": _CLIPPED | {"skip_nonfinite": True},
}

# --- One row of the table ------------------------------------------------------------


def table() -> dict[str, Any]:
    """Return the rows of this checkout's table, by name."""
    for name in TABLES:
        if importlib.util.find_spec(name.rpartition(".")[0]) is None:
            continue
        if importlib.util.find_spec(name) is not None:
            return {row.name: row for row in importlib.import_module(name).ROWS}
    raise ModuleNotFoundError(f"No table of transformations in this checkout: {TABLES}")


def normal(seed: int, size: float = 1.0) -> dict[str, jax.Array]:
    """Return a tree of normal numbers, alike in every checkout."""
    rng, tree = np.random.default_rng(seed), {}
    for name, (dtype, shape) in LEAVES.items():
        x = size * rng.normal(size=shape)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            x = x + 1j * size * rng.normal(size=shape)
        tree[name] = jnp.asarray(x, dtype)
    return tree


copy = functools.partial(jax.tree.map, jnp.copy)


def digests(*trees: Any) -> dict[str, str]:
    """Return a digest of type and bytes of every leaf, by its path."""
    return {
        jax.tree_util.keystr(path): _digest(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(trees)
    }


def _digest(leaf: jax.Array) -> str:
    kind = f"{leaf.dtype}{list(leaf.shape)}{' weak' * leaf.weak_type}"
    content = hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()[:16]
    return f"{kind} {content}"


def call(row: Any, index: int) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """Return the gradients of one step, and what is passed beside them."""
    grads, extra = normal(100 + index, 0.5), {}
    if {"skip_nonfinite", "skip_spikes"} & set(row.options):
        extra["loss"] = jnp.float32(2.0 / (1 + index))
        if index == POISONED:
            grads["bias"] = grads["bias"].at[3].set(jnp.nan)
    if row.waits:
        extra["weight"] = jnp.float32(1.0 + index % 3)
    return grads, extra


class Traces:
    """A count of what JAX traced, from when it is made."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._notice)

    def _notice(self, event: str, duration: float, **details: Any) -> None:
        del duration, details
        self.count += event == "/jax/core/compile/jaxpr_trace_duration"

    def during(self, function: Any, *args: Any, **kwargs: Any) -> tuple[bool, Any]:
        """Return whether a call traced anything, and its result."""
        before = self.count
        result = function(*args, **kwargs)
        return self.count > before, result


TRACES = Traces()


def record(row: Any) -> Answer:
    """Return all facts about one row that another checkout should share."""
    tx, params = row.make(), normal(0)
    state = tx.init(params)
    facts: Answer = {"repr": repr(tx), "state": sorted(digests(state))}
    grads, extra = call(row, 0)
    traced, lowered = TRACES.during(tx.jit_step.lower, grads, state, params, **extra)
    compiled = lowered.compile()
    facts["hlo"], memory = compiled.as_text(), compiled.memory_analysis()
    jaxpr = jax.make_jaxpr(tx.jit_step)(grads, state, params, **extra)
    facts["jaxpr"] = equations(jaxpr)
    facts["memory"] = {
        "temporaries": memory.temp_size_in_bytes,
        "in place": memory.alias_size_in_bytes,
    }
    facts["update"] = updates(row, params)
    facts["again"] = rebuilt(row, params)
    facts["step"], facts["flush"], facts["traces"] = steps(row, params, int(traced))
    return facts


def steps(row: Any, params: Any, traces: int) -> tuple[Any, Any, int]:
    """Take `STEPS` steps in place: their digests, and the calls that were traced."""
    tx, after, flushed = row.make(), [], []
    state, flush, params = tx.init(params), jax.jit(tx.flush), copy(params)
    for index in range(STEPS):
        grads, extra = call(row, index)
        traced, made = TRACES.during(tx.jit_step, grads, state, params, **extra)
        traces, (params, state) = traces + traced, made
        after.append(digests(params, state))
        if row.waits and index in FLUSHED:
            flushed.append(digests(*flush(state, params)))
    return after, flushed, traces


def updates(row: Any, params: Any) -> list[dict[str, str]]:
    """Take `UPDATES` steps by `update` and `optax.apply_updates`."""
    tx, after = row.make(), []
    state, update = tx.init(params), jax.jit(tx.update)
    for index in range(UPDATES):
        grads, extra = call(row, index)
        change, state = update(grads, state, params, **extra)
        params = optax.apply_updates(params, change)
        after.append(digests(params, state, change))
    return after


def rebuilt(row: Any, params: Any) -> Answer:
    """Take two steps by `jax.jit(tx.step)`, each of a transformation made anew."""
    state, after, traced = row.make().init(params), [], []
    params = copy(params)
    for index in range(2):
        grads, extra = call(row, index)
        step = jax.jit(row.make().step, donate_argnums=(1, 2))
        was_traced, made = TRACES.during(step, grads, state, params, **extra)
        traced.append(was_traced)
        params, state = made
        after.append(digests(params, state))
    return {"bits": after, "traced": traced}


def equations(jaxpr: Any) -> dict[str, int]:
    """Count the equations of a jaxpr and of all inside it, by primitive."""
    return dict(Counter(equation.primitive.name for equation in _equations(jaxpr)))


def _equations(found: Any) -> Iterator[Any]:
    found = getattr(found, "jaxpr", found)
    if isinstance(found, tuple | list):
        for part in found:
            yield from _equations(part)
    for equation in getattr(found, "eqns", ()):
        yield equation
        for value in equation.params.values():
            yield from _equations(value)


# --- Seconds -------------------------------------------------------------------------


def in_place(options: Mapping[str, Any]) -> tuple[Any, Callable[..., Any]]:
    """Return a transformation, and its step in the order in which it is donated."""
    tx = optadamw.adamw(**options)

    def step(params: Any, state: Any, grads: Any) -> Any:
        return tx.step(grads, state, params)

    return tx, step


def compilation(name: str, leaves: int, compiles: bool) -> dict[str, float]:
    """Return the seconds to trace, lower and, if asked to, compile a large step."""
    tx, step = in_place(TIMED[name])
    shape = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    params = {f"leaf_{index}": shape for index in range(leaves)}
    state = jax.eval_shape(tx.init, params)
    jax.clear_caches()
    gc.collect()
    at = [time.perf_counter()]
    traced = jax.jit(step, donate_argnums=(0, 1)).trace(params, state, params)
    at.append(time.perf_counter())
    lowered = traced.lower()
    at.append(time.perf_counter())
    if compiles:
        lowered.compile()
        at.append(time.perf_counter())
    return dict(zip(("trace", "lower", "compile"), np.diff(at).tolist(), strict=False))


def session(name: str, leaves: int, elements: int, burst: int) -> Iterator[list[float]]:
    """Train, and yield the seconds of some steps after one that fills the caches."""
    tx, step = in_place(TIMED[name])
    step = jax.jit(step, donate_argnums=(0, 1))
    keys = jax.random.split(jax.random.key(0), leaves)
    grads = [jax.random.normal(key, (elements,)) for key in keys]
    params = [0.1 * g for g in grads]
    carry = params, tx.init(params)
    del params
    while True:
        # Which pages the arrays lie in changes a step by 2 %; see timing.py.
        carry = jax.block_until_ready(copy(carry))
        gc.collect()
        seconds = []
        for _ in range(1 + burst):
            start = time.perf_counter()
            carry = jax.block_until_ready(step(*carry, grads))
            seconds.append(time.perf_counter() - start)
        yield seconds[1:]


SESSIONS: dict[str, Iterator[list[float]]] = {}


def turn(name: str, **given: int) -> list[float]:
    """Return the seconds of some steps of a session, begun when first asked for."""
    return next(SESSIONS.setdefault(name, session(name, **given)))


# --- Requests ------------------------------------------------------------------------

REQUESTS: dict[str, Callable[..., Any]] = {
    "names": lambda: list(table()),
    "row": lambda name: record(table()[name]),
    "compilation": compilation,
    "turn": turn,
}


def answer(request: Mapping[str, Any]) -> Answer:
    """Return what was asked for, or the error that it ended in."""
    try:
        return {"result": REQUESTS[request["what"]](**request["given"])}
    except Exception as error:  # whatever it is, the other checkout should share it
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Answer requests until the input ends."""
    root = Path(os.environ["PYTHONPATH"]).resolve()
    found = Path(optadamw.__file__).resolve()
    if root not in found.parents:
        raise RuntimeError(f"{root} is to be measured, but optadamw is in {found}.")
    # What a library prints must not stand between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
