"""The loss, and what the network makes of examples."""

from functools import partial
from typing import Any

import jax
import optax
from flax import nnx

from optadamw.demo.data import Examples


def loss_and_accuracy(
    params: Any, graph: nnx.GraphDef, examples: Examples
) -> tuple[jax.Array, jax.Array]:
    """Return the mean cross-entropy, in nats, and the share of digits read rightly."""
    logits = nnx.merge(graph, params)(examples.images)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, examples.labels)
    right = logits.argmax(axis=-1) == examples.labels
    return loss.mean(), right.mean()


evaluate = jax.jit(loss_and_accuracy, static_argnames="graph")


@partial(jax.jit, static_argnames="graph")
def read_rightly(params: Any, graph: nnx.GraphDef, examples: Examples) -> jax.Array:
    """Return for each image whether its digit is read rightly."""
    logits = nnx.merge(graph, params)(examples.images)
    return logits.argmax(axis=-1) == examples.labels
