"""`optadamw.adamw` in the place of `optax.adamw` in every wrapper of Optax.

tests/laws/test_optax.py has the laws of company for every transformation; this file
compares numbers with Optax's own.
"""

import inspect
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import optadamw
from tests.support import trees

OPTIONS: dict[str, Any] = {"learning_rate": 1e-2, "weight_decay": 1e-2}
KINDS: trees.Kinds = {"w": (jnp.float32, (3, 4)), "b": (jnp.float32, (4,))}
PARAMS = trees.normal(KINDS, 100)


def every_second(step, *_):
    return step % 2 == 0


def adversary() -> Any:
    return optax.chain(contrib.normalize(), optax.sgd(0.05))


def injected(inject: Any, adamw: Any) -> Any:
    return inject(adamw, hyperparam_dtype=jnp.float32)(**OPTIONS)


def partitioned(split: Any, adamw: Any) -> Any:
    fast = {"learning_rate": 3e-2, "weight_decay": 0.1}
    return split({"w": adamw(**OPTIONS), "b": adamw(**fast)}, {"w": "w", "b": "b"})


def called(wrapper: Any, *args: Any, **options: Any) -> Any:
    """A wrapper that takes the transformation first."""
    return lambda adamw: wrapper(adamw(**OPTIONS), *args, **options)


WRAPPERS = {
    "MultiSteps": called(optax.MultiSteps, every_k_schedule=2),
    "apply_if_finite": called(optax.apply_if_finite, max_consecutive_errors=3),
    "chain": lambda adamw: optax.chain(
        optax.clip_by_global_norm(1.0), adamw(**OPTIONS), optax.scale(0.5)
    ),
    "conditionally_mask": called(optax.conditionally_mask, every_second),
    "conditionally_transform": called(optax.conditionally_transform, every_second),
    "flatten": called(optax.flatten),
    "freeze": lambda adamw: optax.chain(
        optax.freeze({"w": False, "b": True}), adamw(**OPTIONS)
    ),
    "inject_hyperparams": partial(injected, optax.inject_hyperparams),
    "inject_stateful_hyperparams": partial(injected, optax.inject_stateful_hyperparams),
    "lookahead": called(optax.lookahead, sync_period=3, slow_step_size=0.5),
    "masked": called(optax.masked, {"w": True, "b": False}),
    "mechanize": called(contrib.mechanize, s_init=0.1),
    "monitor": lambda adamw: optax.chain(
        adamw(**OPTIONS), optax.monitor({"norm": optax.tree.norm})
    ),
    "multi_transform": partial(partitioned, optax.multi_transform),
    "named_chain": lambda adamw: optax.named_chain(
        ("clip", optax.clip(0.5)), ("adamw", adamw(**OPTIONS))
    ),
    "partition": partial(partitioned, optax.partition),
    "reduce_on_plateau": lambda adamw: optax.chain(
        adamw(**OPTIONS), contrib.reduce_on_plateau(factor=0.5, patience=2)
    ),
    "sam": lambda adamw: contrib.sam(adamw(**OPTIONS), adversary()),
    "schedule_free": lambda adamw: contrib.schedule_free(
        adamw(learning_rate=1e-2, b1=0.0), learning_rate=1e-2
    ),
    "selective_transform": called(
        optax.selective_transform, freeze_mask={"w": False, "b": True}
    ),
    "split_real_and_imaginary": called(contrib.split_real_and_imaginary),
    "with_extra_args_support": called(optax.with_extra_args_support),
}
OTHERS = {
    "galore": "an optimizer; its `base_optimizer` gets projected gradients of its own",
    "lbfgs": "an optimizer; what it takes is a line search",
    "scale_by_galore": "a part of galore",
    "sophia": "an optimizer; what it takes estimates a Hessian",
}
"""What takes a transformation and is no wrapper, and why."""


def trained(tx: Any, **extra: Any) -> tuple[Any, list[Any]]:
    """The parameters and the updates of eight steps, with small and large gradients."""

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state, updates

    params, state, seen = PARAMS, tx.init(PARAMS), []
    if isinstance(state, optax.LookaheadState):
        params = optax.LookaheadParams.init_synced(PARAMS)
        state = tx.init(params)
    for index, size in enumerate((1.0, 0.1, 10.0, 1.0, 1e-3, 1.0, 0.3, 1.0)):
        grads = trees.normal(KINDS, index)
        params, state, updates = step(
            params, state, jax.tree.map(lambda g, size=size: g * size, grads)
        )
        seen.append(updates)
    return params, seen


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_trains_the_same_numbers(name):
    wrap = WRAPPERS[name]
    extra = {"value": jnp.float32(1.0)} if name == "reduce_on_plateau" else {}
    found, theirs = (trained(wrap(f), **extra) for f in (optadamw.adamw, optax.adamw))
    for x, y in zip(*map(jax.tree.leaves, (found, theirs)), strict=True):
        # Updates of schedule_free are differences of parameters, whose last place is
        # up to 2.4e-7: four of them.
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6)
    assert max(float(optax.tree.norm(updates)) for updates in theirs[1]) > 1e-3


@pytest.mark.skipif(optax.__version__ != "0.2.8", reason="another Optax")
def test_every_wrapper_of_optax_is_in_the_table():
    words = ("GradientTransformation", "inner_factory")
    found = {
        name
        for module in (optax, contrib)
        for name, member in vars(module).items()
        if callable(member)
        and not name.startswith("_")
        and _takes_a_transformation(member, words)
    }
    assert {"MultiSteps", "masked", "mechanize"} <= found
    assert found - set(WRAPPERS) == set(OTHERS)


def _takes_a_transformation(member: Any, words: tuple[str, ...]) -> bool:
    try:
        parameters = inspect.signature(member).parameters.values()
    except (TypeError, ValueError):
        return False
    texts = [f"{p.name}: {p.annotation}" for p in parameters]
    return any(word in text for text in texts for word in words)
