"""Train a network with one optimizer; an epoch is one compiled program."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optadamw
from optadamw.cli.demo.evaluation import evaluate, loss_and_right
from optadamw.cli.demo.optimizers import schedule, steps_per_epoch
from optadamw.cli.demo.settings import Settings
from optadamw.cli.demo.task import Examples, Splits, Task


class Step(NamedTuple):
    """Measurements of a training step: scalars, which the scan of an epoch stacks."""

    loss: Any
    accuracy: Any
    gradient_norm: Any
    update_to_weight: dict[str, Any]


class Epoch(NamedTuple):
    """Measurements of an epoch: means over its steps, and the validation after it.

    Training loss and accuracy are measured during the epoch, and on images that are
    shifted at random, so they are worse than those of the validation.
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


class Place(NamedTuple):
    """The progress of a training after an epoch, to continue with the same bits."""

    params: Any
    state: Any
    epoch: int


def start(
    tx: optax.GradientTransformation, task: Task, settings: Settings, dtype: Any = None
) -> Place:
    """Return the start of a training: the seed's parameters, in `dtype` if given."""
    params = task.initial(settings.seed)
    if dtype is not None:
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    return Place(params, tx.init(params), 0)


def train(
    tx: optax.GradientTransformation,
    task: Task,
    splits: Splits,
    settings: Settings,
    report: Callable[[Epoch], None] | None = None,
    *,
    dtype: Any = None,
) -> Run:
    """Train from the seed's initial parameters; stop if the loss is not finite.

    Args:
        tx: The optimizer.
        task: The model.
        splits: The data; the test part is not used.
        settings: The options of the demo.
        report: Called with each epoch when it ends; None: nothing is called.
        dtype: The dtype of the parameters; None: that of the task, float32.

    Returns:
        The run; after a failure it ends with the epoch that failed.
    """
    begin = time.perf_counter()
    first = place = start(tx, task, settings, dtype)
    history, failed_step = [], None
    for place, epoch, finite in epochs(tx, task, splits, settings, first):  # noqa: B007
        history.append(epoch)
        if report is not None:
            report(epoch)
        if not finite.all():
            before = (epoch.epoch - 1) * steps_per_epoch(settings)
            failed_step = before + int(finite.argmin())
            break
    seconds = time.perf_counter() - begin
    return Run(place.params, place.state, history, failed_step, seconds)


def epochs(
    tx: optax.GradientTransformation,
    task: Task,
    splits: Splits,
    settings: Settings,
    place: Place,
    fault_at: int | None = None,
) -> Iterator[tuple[Place, Epoch, np.ndarray]]:
    """Yield each further epoch of a training, up to the last.

    The order of the examples depends on the seed and the number of the epoch alone, so
    that a training can be continued from any `Place`.

    Args:
        tx: The optimizer.
        task: The model.
        splits: The data; the test part is not used.
        settings: The options of the demo.
        place: Where the training is; its arrays are donated.
        fault_at: The step whose gradient gets a NaN in one element; None: no step.

    Yields:
        Where the training is after the epoch, its measurements, and for each of its
        steps and the validation whether loss and gradient were finite.
    """
    begin = time.perf_counter()
    key = jax.random.key(settings.seed)
    learning_rate = schedule(settings)
    per_epoch = steps_per_epoch(settings)
    params, state, done = place
    for number in range(done + 1, settings.epochs + 1):
        params, state, steps = _epoch(
            params,
            state,
            splits.training,
            jax.random.fold_in(key, number),
            (number - 1) * per_epoch,
            task=task,
            tx=tx,
            batch_size=settings.batch_size,
            fault_at=fault_at,
        )
        loss, right = evaluate(params, task, splits.validation)
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
            time.perf_counter() - begin,
        )
        finite = np.isfinite(steps.loss) & np.isfinite(steps.gradient_norm)
        finite = np.append(finite, np.isfinite(epoch.validation_loss))
        yield Place(params, state, number), epoch, finite


@partial(
    jax.jit,
    static_argnames=("task", "tx", "batch_size", "fault_at"),
    donate_argnums=(0, 1),
)
def _epoch(
    params: Any,
    state: Any,
    training: Examples,
    key: jax.Array,
    steps_before: int,
    *,
    task: Task,
    tx: optax.GradientTransformation,
    batch_size: int,
    fault_at: int | None,
) -> tuple[Any, Any, Step]:
    order_key, vary_key = jax.random.split(key)
    batches = len(training.labels) // batch_size
    order = jax.random.permutation(order_key, len(training.labels))
    order = order[: batches * batch_size].reshape(batches, batch_size)

    def one_step(carry: tuple[Any, Any], inputs: tuple[jax.Array, ...]):
        params, state = carry
        rows, key, number = inputs
        batch = Examples(task.vary(training.inputs[rows], key), training.labels[rows])
        (loss, right), grads = jax.value_and_grad(loss_and_right, has_aux=True)(
            params, task, batch
        )
        if fault_at is not None:
            grads = _with_nan(grads, number == fault_at)
        norm = optax.tree.norm(grads)
        new_params, state = optadamw.step(tx, grads, state, params, grad_norm=norm)
        ratios = _update_to_weight(params, new_params)
        return (new_params, state), Step(loss, right.mean(), norm, ratios)

    keys = jax.random.split(vary_key, batches)
    numbers = steps_before + jnp.arange(batches)
    (params, state), steps = jax.lax.scan(
        one_step, (params, state), (order, keys, numbers)
    )
    return params, state, steps


def _with_nan(grads: Any, now: jax.Array) -> Any:
    """Put NaN into one element of the first gradient if `now`."""
    first, *rest = jax.tree.leaves(grads)
    flat = first.reshape(-1)
    flat = flat.at[0].set(jnp.where(now, jnp.nan, flat[0]))
    return jax.tree.unflatten(
        jax.tree.structure(grads), [flat.reshape(first.shape), *rest]
    )


def _update_to_weight(params: Any, new_params: Any) -> dict[str, jax.Array]:
    """Return |update| / |weight| of each layer, over all its parameters together."""
    updates = jax.tree.map(jnp.subtract, new_params, params)
    return {
        layer: optax.tree.norm(updates[layer]) / optax.tree.norm(params[layer])
        for layer in params
    }
