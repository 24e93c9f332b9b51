"""optadamw, by `step` and by `update` followed by `optax.apply_updates`."""

import functools
from typing import Any

import optax

import optadamw
from benchmarks.contenders.contender import Program
from benchmarks.contenders.on_jax import contender
from benchmarks.workloads import Config


def _transformation(config: Config) -> Any:
    return optadamw.adamw(
        config.learning_rate,
        config.b1,
        config.b2,
        config.eps,
        weight_decay=config.weight_decay,
        amsgrad=config.amsgrad or None,
        clip_global_norm=config.clip_global_norm,
        ema_decay=config.ema_decay,
    )


def _program(by_step: bool, config: Config, tree: Any) -> Program:
    del tree
    tx = _transformation(config)

    def step(gradients: Any, carry: Any) -> Any:
        params, state = carry
        return tx.step(gradients, state, params)

    def update(gradients: Any, carry: Any) -> Any:
        params, state = carry
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    def init(params: Any) -> Any:
        return params, tx.init(params)

    def parameters(carry: Any) -> Any:
        return carry[0]

    def average(carry: Any) -> Any:
        return optadamw.ema_of(carry[1])

    return Program(step if by_step else update, init, parameters, average)


STEP = contender(functools.partial(_program, True))
UPDATE = contender(functools.partial(_program, False))
