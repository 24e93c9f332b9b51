"""Optax as its documentation composes it; the average by `optax.incremental_update`."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.contenders.contender import Program
from benchmarks.contenders.on_jax import contender
from benchmarks.reference import Conventions
from benchmarks.workloads import Config


def _transformation(config: Config) -> optax.GradientTransformation:
    rate, decay = config.learning_rate, config.weight_decay
    b1, b2, eps = config.b1, config.b2, config.eps
    if config.amsgrad:  # Optax has no alias for AMSGrad with decoupled decay.
        tx = optax.chain(
            optax.scale_by_amsgrad(b1, b2, eps),
            optax.add_decayed_weights(decay),
            optax.scale_by_learning_rate(rate),
        )
    else:
        tx = optax.adamw(rate, b1, b2, eps, weight_decay=decay)
    if config.clip_global_norm is None:
        return tx
    return optax.chain(optax.clip_by_global_norm(config.clip_global_norm), tx)


def _program(config: Config, tree: Any) -> Program:
    del tree
    tx = _transformation(config)

    def init(params: Any) -> Any:
        averaged = config.ema_decay is not None
        copy = jax.tree.map(jnp.copy, params) if averaged else None
        return params, tx.init(params), copy

    def step(gradients: Any, carry: Any) -> Any:
        params, state, ema = carry
        updates, state = tx.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        if config.ema_decay is not None:
            ema = optax.incremental_update(params, ema, 1 - config.ema_decay)
        return params, state, ema

    def parameters(carry: Any) -> Any:
        return carry[0]

    def average(carry: Any) -> Any:
        return carry[2]

    return Program(step, init, parameters, average)


CONTENDER = contender(_program, Conventions(amsgrad_corrected=True))
