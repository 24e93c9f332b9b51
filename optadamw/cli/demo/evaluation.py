"""The loss and the accuracy of a network, and a comparison of two networks."""

import math
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from optadamw.cli.demo.data import Examples, Splits


def loss_and_right(
    params: Any, graph: nnx.GraphDef, examples: Examples
) -> tuple[jax.Array, jax.Array]:
    """Return the mean cross-entropy in nats, and for each image if it is read right."""
    logits = nnx.merge(graph, params)(examples.images)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, examples.labels)
    return loss.mean(), logits.argmax(axis=-1) == examples.labels


evaluate = jax.jit(loss_and_right, static_argnames="graph")


def scores(graph: Any, params: Any, splits: Splits) -> dict[str, dict[str, float]]:
    """Return loss and accuracy of parameters on each part of the data."""
    table = {}
    for part, examples in splits._asdict().items():
        loss, right = evaluate(params, graph, examples)
        table[part] = {"loss": float(loss), "accuracy": float(right.mean())}
    return table


def compare(graph: Any, first: Any, second: Any, splits: Splits) -> dict[str, Any]:
    """Count the test images that only one of two networks reads right.

    The p-value of the exact sign test over these images (McNemar's test) is the
    probability that two equally good networks differ at least as much.
    """
    first_right, second_right = (
        np.asarray(evaluate(params, graph, splits.test)[1])
        for params in (first, second)
    )
    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    differing = only_first + only_second
    fewer = min(only_first, only_second)
    tail = sum(math.comb(differing, k) for k in range(fewer + 1)) / 2**differing
    return {
        "right": (int(first_right.sum()), int(second_right.sum())),
        "only_right": (only_first, only_second),
        "p_value": min(1.0, 2 * tail),
    }
