"""Numbers and schedules for every option of `adamw`, none of them its default."""

import jax
import jax.numpy as jnp


def cooling(step: jax.Array) -> jax.Array:
    """A learning rate that falls from 0.05; a schedule that can be pickled."""
    return 0.05 / (1.0 + 0.5 * step.astype(jnp.float32))


def rising(step: jax.Array) -> jax.Array:
    """A decay that rises from 0.02 to 0.2."""
    return jnp.minimum(0.02 + 0.03 * step.astype(jnp.float32), 0.2)


def nearing_one(step: jax.Array) -> jax.Array:
    """A beta that rises from 0.6 towards 1."""
    return 1.0 - 0.4 / (1.0 + step.astype(jnp.float32))


RATE = 0.03
DECAY = 0.1
SCHEDULES = {
    "learning_rate": cooling,
    "b1": nearing_one,
    "b2": nearing_one,
    "eps": cooling,
    "eps_root": cooling,
    "weight_decay": rising,
    "clip_value": nearing_one,
    "clip_norm": nearing_one,
    "clip_global_norm": nearing_one,
    "ema_decay": nearing_one,
}
"""Every hyperparameter of `adamw` that may be a schedule, as one."""

NUMBERS = {
    "learning_rate": RATE,
    "b1": 0.8,
    "b2": 0.97,
    "eps": 1e-3,
    "eps_root": 1e-5,
    "weight_decay": DECAY,
    "clip_value": 0.7,
    "clip_norm": 0.9,
    "clip_global_norm": 1.1,
    "ema_decay": 0.7,
}
"""The same hyperparameters as numbers, none at its default, 0 or 1."""


ELEMENTWISE = tuple(n for n in NUMBERS if n not in ("clip_norm", "clip_global_norm"))
