"""Train the network with one optimizer; an epoch is one compiled program."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import optadamw
from optadamw.cli.demo.data import Examples, Splits, shift
from optadamw.cli.demo.evaluation import evaluate, loss_and_right
from optadamw.cli.demo.model import initial_network
from optadamw.cli.demo.optimizers import schedule, steps_per_epoch
from optadamw.cli.demo.settings import Settings


class Step(NamedTuple):
    """Measurements of a training step: scalars, which the scan of an epoch stacks."""

    loss: Any
    accuracy: Any
    gradient_norm: Any
    update_to_weight: dict[str, Any]


class Epoch(NamedTuple):
    """Measurements of an epoch: means over its steps, and the validation after it.

    Training loss and accuracy are measured during the epoch and on shifted images, so
    they are worse than those of the validation.
    """

    epoch: int
    training_loss: float
    training_accuracy: float
    validation_loss: float
    validation_accuracy: float
    gradient_norm: float
    learning_rate: float
    update_to_weight: dict[str, float]
    seconds: float


class Run(NamedTuple):
    """A finished training: its final values and one `Epoch` for each epoch.

    `failed_step` is the first step with a loss or a gradient that is not finite, or
    None. A validation loss that is not finite counts for the next step.
    """

    params: Any
    state: Any
    history: list[Epoch]
    failed_step: int | None
    seconds: float


def train(
    tx: optax.GradientTransformation,
    splits: Splits,
    settings: Settings,
    report: Callable[[Epoch], None] | None = None,
) -> Run:
    """Train from the seed's initial parameters; stop if the loss is not finite.

    Args:
        tx: The optimizer.
        splits: The data; the test part is not used.
        settings: The options of the demo.
        report: Called with each epoch when it ends; None: nothing is called.

    Returns:
        The run; after a failure it ends with the epoch that failed.
    """
    start = time.perf_counter()
    graph, params = initial_network(settings.seed)
    state = tx.init(params)
    key = jax.random.key(settings.seed)
    learning_rate = schedule(settings)
    per_epoch = steps_per_epoch(settings)
    history, failed_step = [], None
    for number in range(1, settings.epochs + 1):
        params, state, steps = _epoch(
            params,
            state,
            splits.training,
            jax.random.fold_in(key, number),
            graph=graph,
            tx=tx,
            batch_size=settings.batch_size,
        )
        loss, right = evaluate(params, graph, splits.validation)
        steps = jax.tree.map(np.asarray, steps)
        epoch = Epoch(
            number,
            float(steps.loss.mean()),
            float(steps.accuracy.mean()),
            float(loss),
            float(right.mean()),
            float(steps.gradient_norm.mean()),
            float(np.asarray(learning_rate(number * per_epoch - 1))),
            {name: float(row.mean()) for name, row in steps.update_to_weight.items()},
            time.perf_counter() - start,
        )
        history.append(epoch)
        if report is not None:
            report(epoch)
        finite = np.isfinite(steps.loss) & np.isfinite(steps.gradient_norm)
        finite = np.append(finite, np.isfinite(epoch.validation_loss))
        if not finite.all():
            failed_step = (number - 1) * per_epoch + int(finite.argmin())
            break
    return Run(params, state, history, failed_step, time.perf_counter() - start)


@partial(jax.jit, static_argnames=("graph", "tx", "batch_size"), donate_argnums=(0, 1))
def _epoch(
    params: Any,
    state: Any,
    training: Examples,
    key: jax.Array,
    *,
    graph: nnx.GraphDef,
    tx: optax.GradientTransformation,
    batch_size: int,
) -> tuple[Any, Any, Step]:
    order_key, shift_key = jax.random.split(key)
    batches = len(training.labels) // batch_size
    order = jax.random.permutation(order_key, len(training.labels))
    order = order[: batches * batch_size].reshape(batches, batch_size)

    def one_step(carry: tuple[Any, Any], inputs: tuple[jax.Array, jax.Array]):
        params, state = carry
        rows, key = inputs
        batch = Examples(shift(training.images[rows], key), training.labels[rows])
        (loss, right), grads = jax.value_and_grad(loss_and_right, has_aux=True)(
            params, graph, batch
        )
        norm = optax.tree.norm(grads)
        new_params, state = optadamw.step(tx, grads, state, params, grad_norm=norm)
        ratios = _update_to_weight(params, new_params)
        return (new_params, state), Step(loss, right.mean(), norm, ratios)

    keys = jax.random.split(shift_key, batches)
    (params, state), steps = jax.lax.scan(one_step, (params, state), (order, keys))
    return params, state, steps


def _update_to_weight(params: Any, new_params: Any) -> dict[str, jax.Array]:
    """Return |update| / |weight| of each layer, over its kernel and bias together."""
    updates = jax.tree.map(jnp.subtract, new_params, params)
    return {
        layer: optax.tree.norm(updates[layer]) / optax.tree.norm(params[layer])
        for layer in params
    }
