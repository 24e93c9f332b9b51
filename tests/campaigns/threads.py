"""Many threads at once: the numbers, files and words of one thread after the other."""

import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import optadamw
from optadamw import checkpoint
from tests.campaigns.campaign import Case
from tests.support import trees

THREADS = 8
KINDS = {"kernel": (jnp.float32, (16, 25)), "bias": (jnp.bfloat16, (60,))}
OPTIONS = {"weight_decay": 0.1, "ema_decay": 0.9, "commit": "stochastic"}


def cases(full: bool) -> Iterator[Case]:
    """Try each kind of work once, or 50 times."""
    rounds = 50 if full else 1
    for name, work in WORK.items():
        yield Case(name, partial(_rounds, work, rounds))


def _rounds(work: Callable[[int], None], rounds: int) -> str:
    for number in range(rounds):
        work(number)
    return f"{rounds} rounds of {THREADS} threads"


def at_once(work: Callable[[int], Any]) -> list[Any]:
    """Call `work` with 0 to 7 in eight threads that begin together."""
    gate = threading.Barrier(THREADS)

    def begin(number: int) -> Any:
        gate.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(begin, range(THREADS)))


def _trained(rate: float, seed: int, steps: int = 3) -> Any:
    """Train with a transformation that is made anew before each step."""
    params = trees.normal(KINDS, seed)
    state = optadamw.adamw(rate, **OPTIONS).init(params)
    for i in range(steps):
        tx = optadamw.adamw(rate, **OPTIONS)
        params, state = tx.jit_step(trees.normal(KINDS, seed + i), state, params)
    return params, state


def equal_transformations(number: int) -> None:
    """Step with equal transformations, which share a program that none has yet."""
    rate = 0.01 * (1 + number / 64)
    found = at_once(lambda thread: _trained(rate, thread))
    for thread, one in enumerate(found):
        trees.assert_same_bits(one, _trained(rate, thread))


def different_transformations(number: int) -> None:
    """Step with eight that differ, more in all than the cache holds."""
    rates = [0.01 * (1 + (8 * number + i) / 512) for i in range(THREADS)]
    found = at_once(lambda thread: _trained(rates[thread], 0))
    for thread, one in enumerate(found):
        trees.assert_same_bits(one, _trained(rates[thread], 0))


def one_file(number: int) -> None:
    """Save eight states under one name, and load it: each time one of them, whole."""
    del number
    tx, params = optadamw.adamw(0.1), {"w": jnp.zeros(20_000)}
    state = tx.init(params)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.npz"
        checkpoint.save(path, tx, state, params)

        def work(thread: int) -> None:
            own = state._replace(step=jnp.int32(thread))
            for _ in range(4):
                checkpoint.save(path, tx, own, {"w": params["w"] + thread})
                saved = checkpoint.load(path)
                found = checkpoint.params_of(saved, params)["w"]
                assert np.all(np.asarray(found) == saved.steps[""])

        at_once(work)
        left = [entry.name for entry in Path(folder).iterdir()]
        assert left == ["state.npz"], left


def reports(number: int) -> None:
    """Describe, plan, compare, hash, print and restore at once."""
    params = trees.normal(KINDS, 0)

    def work(thread: int) -> tuple[Any, ...]:
        tx = optadamw.adamw(0.01 + number + thread % 2, **OPTIONS)
        portable = checkpoint.to_portable(tx, tx.init(params), params)
        restored, _ = checkpoint.restore(tx, params, portable)
        plan = optadamw.memory_plan(tx, params)
        return optadamw.describe(tx, params), repr(tx), hash(tx), str(plan), restored

    found = at_once(work)
    for thread, (*texts, restored) in enumerate(found):
        assert texts == list(found[thread % 2][:-1])
        trees.assert_same_bits(restored, found[thread % 2][-1])


def traces(number: int) -> None:
    """Trace, differentiate and map the step of one transformation at once."""
    tx = optadamw.adamw(0.1 + number, weight_decay=0.1)
    params = trees.normal({"w": (jnp.float32, (7,))}, 0)
    grads = trees.normal({"w": (jnp.float32, (7,))}, 1)

    def stepped(grads: Any) -> Any:
        return tx.step(grads, tx.init(params), params)[0]

    def work(thread: int) -> Any:
        match thread % 4:
            case 0:
                return jax.jit(stepped)(grads)
            case 1:
                many = jax.tree.map(lambda g: jnp.stack([g, g]), grads)
                return jax.tree.map(lambda x: x[1], jax.vmap(stepped)(many))
            case 2:
                many = jax.tree.map(lambda g: g[None], grads)
                _, after = jax.lax.scan(lambda _, g: (None, stepped(g)), None, many)
                return jax.tree.map(lambda x: x[0], after)
            case _:
                return jax.jvp(stepped, (grads,), (grads,))[0]

    found = at_once(work)
    for one in found:
        assert trees.largest_difference(one, found[0]) <= 1e-6


WORK = {
    "equal transformations": equal_transformations,
    "different transformations": different_transformations,
    "one file": one_file,
    "reports": reports,
    "traces": traces,
}
