"""A run of Optax goes on here, and a run of ours there."""

from typing import Any

import jax
import optax
import pytest

import optadamw
from optadamw import interchange
from tests.interchange import cases
from tests.interchange.live import CLOSE


def rate(step: Any) -> Any:
    return cases.RATE / (1 + step)


def amsgradw() -> Any:
    return optax.chain(
        optax.scale_by_amsgrad(cases.B1, cases.B2, eps=2.0**-20),
        optax.add_decayed_weights(cases.DECAY),
        optax.scale_by_learning_rate(cases.RATE),
    )


def scheduled(**options: Any) -> Any:
    return optax.adamw(rate, cases.B1, cases.B2, eps=2.0**-20, weight_decay=cases.DECAY)


def injected() -> Any:
    return optax.inject_hyperparams(optax.adamw)(
        rate, cases.B1, cases.B2, eps=2.0**-20, weight_decay=cases.DECAY
    )


def windowed(every: int) -> Any:
    return optax.MultiSteps(cases.into(), every).gradient_transformation()


def ours(**options: Any) -> Any:
    return optadamw.adamw(
        rate, cases.B1, cases.B2, 2.0**-20, weight_decay=cases.DECAY, **options
    )


OPTAX = {
    "adamw": (cases.into, cases.adamw, 4),
    "schedule": (scheduled, ours, 4),
    "injected": (injected, ours, 4),
    "amsgrad": (amsgradw, lambda: cases.adamw(amsgrad="corrected"), 4),
    "window": (lambda: windowed(2), lambda: cases.adamw(accumulate_steps=2), 4),
    "open window": (lambda: windowed(4), lambda: cases.adamw(accumulate_steps=4), 6),
    "if finite": (lambda: optax.apply_if_finite(cases.into(), 3), cases.adamw, 4),
    "clipped": (
        lambda: optax.chain(optax.clip_by_global_norm(0.5), cases.into()),
        lambda: cases.adamw(clip_global_norm=0.5),
        4,
    ),
}


def optax_steps(tx: Any, params: Any, state: Any, first: int, calls: int) -> Any:
    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for i in range(first, first + calls):
        params, state = step(params, state, cases.gradients(params, i))
    return params, state


@pytest.mark.parametrize(("there", "here", "calls"), OPTAX.values(), ids=OPTAX)
def test_optax(there, here, calls, record_property):
    params, theirs, tx = cases.tree(), there(), here()
    begun, saved = optax_steps(theirs, params, theirs.init(params), 0, calls)
    whole, end = optax_steps(theirs, begun, saved, calls, calls)

    state = interchange.from_optax(saved, params, tx=tx)
    after, _ = cases.trained(tx, begun, calls, calls, state)
    distance = cases.ulps(cases.leaves(after), cases.leaves(whole))
    record_property("optax -> here", distance)
    assert distance <= CLOSE

    begun, state = cases.trained(tx, params, calls)
    moved = interchange.to_optax(state, params, tx=tx, into=theirs)
    assert jax.tree.structure(moved) == jax.tree.structure(end)
    after, _ = optax_steps(theirs, begun, moved, calls, calls)
    whole, _ = cases.trained(tx, params, 2 * calls)
    distance = cases.ulps(cases.leaves(after), cases.leaves(whole))
    record_property("here -> optax", distance)
    assert distance <= CLOSE
