"""The loss and the accuracy of a network, and a comparison of two networks."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optadamw.cli.demo.task import Examples, Splits, Task


def loss_and_right(
    params: Any, task: Task, examples: Examples
) -> tuple[jax.Array, jax.Array]:
    """Return the mean cross-entropy in nats, and for each label if it is predicted."""
    logits = task.logits(params, examples.inputs).astype(jnp.float32)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, examples.labels)
    return loss.mean(), logits.argmax(axis=-1) == examples.labels


evaluate = jax.jit(loss_and_right, static_argnames="task")


def scores(task: Task, params: Any, splits: Splits) -> dict[str, dict[str, float]]:
    """Return loss and accuracy of parameters on each part of the data."""
    table = {}
    for part, examples in splits._asdict().items():
        loss, right = evaluate(params, task, examples)
        table[part] = {"loss": float(loss), "accuracy": float(right.mean())}
    return table


def compare(task: Task, first: Any, second: Any, splits: Splits) -> dict[str, Any]:
    """Count the test labels that each of two networks predicts, and the examples apart.

    The p-value of the exact sign test over the examples in which one network predicts
    more than the other (for images McNemar's test) is the probability that two equally
    good networks differ at least as much.
    """
    first_right, second_right = (
        np.asarray(evaluate(params, task, splits.test)[1]) for params in (first, second)
    )
    first_each, second_each = (
        right.reshape(len(right), -1).sum(axis=1)
        for right in (first_right, second_right)
    )
    only_first = int((first_each > second_each).sum())
    only_second = int((second_each > first_each).sum())
    differing = only_first + only_second
    fewer = min(only_first, only_second)
    tail = sum(math.comb(differing, k) for k in range(fewer + 1)) / 2**differing
    return {
        "right": (int(first_right.sum()), int(second_right.sum())),
        "only_right": (only_first, only_second),
        "p_value": min(1.0, 2 * tail),
    }
