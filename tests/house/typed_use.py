"""Lines of a user that a strict type checker must take (`mypy --strict`)."""

import jax
import jax.numpy as jnp
import optax

import optadamw
from optadamw import State
from optadamw.dialects import torch

tx = optadamw.adamw(1e-3, weight_decay=0.01, mask="*/kernel", clip_global_norm=1.0)
chained = optadamw.chain(optadamw.scale_by_adam(), optadamw.ema_params(0.9))
theirs: optax.GradientTransformation = torch.AdamW(lr=1e-3)
params = {"dense": {"kernel": jnp.ones((2, 2))}}
state: State = tx.init(params)
grads = jax.tree.map(jnp.ones_like, params)
params, state = tx.step(grads, state, params)
params, state = tx.jit_step(grads, state, params)
updates, state = tx.update(grads, state, params)
step: jax.Array = state.step
rate: jax.Array | None = optadamw.stats_of(state).learning_rate
text: str = optadamw.describe(tx, params)
average: object = optadamw.ema_of(state)
schedule = optadamw.schedules.cosine_decay_schedule(1e-3, 100, alpha=0.1)
scheduled: optax.GradientTransformation = optadamw.adamw(schedule)
optadamw.checkpoint.save("state.npz", tx, state, params)


def train_step(
    tx: optadamw.Transformation, params: object, state: State, batch: object
) -> tuple[object, State, float]:
    return (*tx.step(batch, state, params), 0.0)


population = optadamw.sweep(
    train_step,
    lambda learning_rate: optadamw.adamw(learning_rate),
    optadamw.grid_points(learning_rate=[1e-3, 1e-2]),
)
