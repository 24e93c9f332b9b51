"""The paper's grid: rates x decays x seeds, trained at once in one compiled program."""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import optadamw

Method = Literal["adam_l2", "adamw", "adamw_lr"]

_TRAINING = 200
_INNER = 24
_BATCH = 40
_GAIN = 3.0


class Grid(NamedTuple):
    """The test errors of a grid of trainings.

    Attributes:
        rates: Learning rates at the start of the cosine, ascending.
        decays: Weight decays in the units of the method, ascending.
        errors: For each rate, decay and seed the share of the test images that the
            trained network reads wrong.
    """

    rates: np.ndarray
    decays: np.ndarray
    errors: np.ndarray


DECAYS = {
    # The decay per step of AdamW lies between 1e-4 and 1. In the units of "lr" this is
    # 1e-4 / 1e-2 to 1 / 1e-3, for the rates in the middle of the grid. L2 has another
    # unit, that of the gradient; beyond 10 nothing is learned.
    "adamw": (1e-4, 1.0),
    "adamw_lr": (1e-2, 1e3),
    "adam_l2": (1e-5, 10.0),
}
RATES = (3e-4, 0.3)


def train(method: Method, *, side: int, seeds: range, steps: int) -> Grid:
    """Train a network for each rate, decay and seed, in one compiled program."""
    rates, decays = (np.geomspace(*ends, side) for ends in (RATES, DECAYS[method]))
    errors = _all_errors(
        jnp.asarray(rates, jnp.float32),
        jnp.asarray(decays, jnp.float32),
        jnp.asarray(seeds, jnp.uint32),
        _images(),
        method=method,
        steps=steps,
    )
    return Grid(rates, decays, np.asarray(errors))


def _images() -> tuple[jax.Array, ...]:
    """Return 200 training images and the other 1,597, with their digits."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images = jnp.asarray(pixels[order] / 16, jnp.float32)
    digits = jnp.asarray(labels[order], jnp.int32)
    return (
        images[:_TRAINING],
        digits[:_TRAINING],
        images[_TRAINING:],
        digits[_TRAINING:],
    )


@partial(jax.jit, static_argnames=("method", "steps"))
def _all_errors(rates, decays, seeds, images, *, method: Method, steps: int):
    def error(rate, decay, seed):
        return _error(rate, decay, seed, images, method=method, steps=steps)

    over_seeds = jax.vmap(error, in_axes=(None, None, 0))
    over_decays = jax.vmap(over_seeds, in_axes=(None, 0, None))
    return jax.vmap(over_decays, in_axes=(0, None, None))(rates, decays, seeds)


def _error(rate, decay, seed, images, *, method: Method, steps: int) -> jax.Array:
    training, labels, test, answers = images
    rate_of = _Cosine(rate, steps)
    tx = _optimizer(method, rate_of, rate, decay)
    params_key, rows_key = jax.random.split(jax.random.key(seed))
    params = _initial(params_key)
    rows = jax.random.randint(rows_key, (steps, _BATCH), 0, _TRAINING)

    def loss(params, rows):
        return optax.softmax_cross_entropy_with_integer_labels(
            _logits(params, training[rows]), labels[rows]
        ).mean()

    def step(carry, rows):
        params, state = carry
        grads = jax.grad(loss)(params, rows)
        if method == "adam_l2":
            grads = jax.tree.map_with_path(
                lambda path, g, p: g + decay * p if path[-1].key == "kernel" else g,
                grads,
                params,
            )
        return tx.step(grads, state, params), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), rows)
    return (_logits(params, test).argmax(axis=-1) != answers).mean()


class _Cosine(NamedTuple):
    """A cosine from `peak` at step 0 down to zero after `steps`."""

    peak: Any
    steps: int

    def __call__(self, count):
        return self.peak * 0.5 * (1 + jnp.cos(jnp.pi * count / self.steps))


def _optimizer(method: Method, rate_of, rate, decay) -> optadamw.Transformation:
    if method == "adam_l2":
        return optadamw.adamw(rate_of, weight_decay=0.0)
    if method == "adamw_lr":
        return optadamw.adamw(rate_of, weight_decay=decay, mask="*/kernel")
    return optadamw.adamw(
        rate_of,
        weight_decay=decay,
        mask="*/kernel",
        weight_decay_mode="schedule",
        max_learning_rate=rate,
    )


def _initial(key: jax.Array) -> Any:
    first, second = jax.random.split(key)
    return {
        "hidden": {
            "kernel": jax.random.normal(first, (64, _INNER)) * (2 / 64) ** 0.5,
            "bias": jnp.zeros(_INNER),
        },
        "output": {
            "kernel": jax.random.normal(second, (_INNER, 10)) * _INNER**-0.5,
            "bias": jnp.zeros(10),
            "gain": jnp.float32(_GAIN),
        },
    }


def _logits(params: Any, images: jax.Array) -> jax.Array:
    hidden, output = params["hidden"], params["output"]
    x = jax.nn.relu(_normed(images @ hidden["kernel"]) + hidden["bias"])
    return output["gain"] * _normed(x @ output["kernel"]) + output["bias"]


def _normed(x: jax.Array) -> jax.Array:
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(
        x.var(-1, keepdims=True) + 1e-12
    )
