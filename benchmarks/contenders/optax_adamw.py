"""Optax as its documentation composes it; the average by `optax.incremental_update`."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.contenders.contender import Program
from benchmarks.contenders.on_jax import contender
from benchmarks.reference import Conventions
from benchmarks.workloads import Config

# After so many bad gradients in a row Optax applies the next one.
_MAX_ERRORS = 100


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
    if config.clip_global_norm is not None:
        tx = optax.chain(optax.clip_by_global_norm(config.clip_global_norm), tx)
    # A guard outside of the accumulation would let its NaN into the accumulator.
    return optax.apply_if_finite(tx, _MAX_ERRORS) if config.guard else tx


def _program(config: Config, tree: Any) -> Program:
    del tree
    tx = _transformation(config)
    windows = optax.MultiSteps(tx, config.window)
    if config.accumulate_steps is not None:
        tx = windows.gradient_transformation()

    def init(params: Any) -> Any:
        averaged = config.ema_decay is not None
        copy = jax.tree.map(jnp.copy, params) if averaged else None
        return params, tx.init(params), copy

    def step(gradients: Any, carry: Any) -> Any:
        params, state, ema = carry
        updates, state = tx.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        if config.ema_decay is not None:
            share: Any = 1 - config.ema_decay
            if config.accumulate_steps is not None:
                # The average sees steps, not micro-batches; a share of 0 costs nothing
                # beside, where `lax.cond` around the update would copy.
                share = jnp.where(windows.has_updated(state), share, 0.0)
            ema = optax.incremental_update(params, ema, share)
        return params, state, ema

    def parameters(carry: Any) -> Any:
        return carry[0]

    def average(carry: Any) -> Any:
        return carry[2]

    return Program(step, init, parameters, average)


CONTENDER = contender(_program, Conventions(amsgrad_corrected=True))
