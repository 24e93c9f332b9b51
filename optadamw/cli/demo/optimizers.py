"""The two optimizers that the demo compares, and the schedule they share."""

from typing import Any

import jax
import optax

import optadamw
from optadamw.cli.demo.settings import TRAINING_SIZE, Settings


def steps_per_epoch(settings: Settings) -> int:
    """Return the number of whole batches in an epoch."""
    return TRAINING_SIZE // settings.batch_size


def schedule(settings: Settings) -> optax.Schedule:
    """Return a linear warm-up over a tenth of the steps, then a cosine down to zero."""
    steps = settings.epochs * steps_per_epoch(settings)
    return optax.warmup_cosine_decay_schedule(
        init_value=settings.learning_rate / 10,
        peak_value=settings.learning_rate,
        warmup_steps=max(1, steps // 10),
        decay_steps=max(2, steps),
    )


def adamw(settings: Settings) -> optax.GradientTransformationExtraArgs:
    """Return AdamW, with decoupled weight decay of the kernels."""
    averaged = settings.ema_decay is not None
    return optadamw.adamw(
        schedule(settings),
        weight_decay=settings.weight_decay,
        mask="*/kernel",
        clip_global_norm=settings.clip_global_norm,
        ema_decay=settings.ema_decay,
        ema_warmup=True if averaged else None,
    )


def adam_l2(settings: Settings) -> optax.GradientTransformationExtraArgs:
    """Return Adam with L2 regularization: the moments include the decay.

    Gradients are clipped before the decay is added, as in PyTorch, where a user clips
    the gradients of the loss and Adam adds the decay.
    """
    limit = settings.clip_global_norm
    return optax.chain(
        *([] if limit is None else [optadamw.clip_by_global_norm(limit)]),
        optax.add_decayed_weights(settings.l2, mask=kernels),
        optadamw.scale_by_adam(),
        optadamw.scale_by_learning_rate(schedule(settings)),
    )


# Name in the summary -> name in printed tables, and the function for the optimizer.
COMPARED = {"adamw": ("AdamW", adamw), "adam_l2": ("Adam + L2", adam_l2)}


def kernels(params: Any) -> Any:
    """Return the mask of the kernels, for Optax."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)
