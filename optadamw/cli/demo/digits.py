"""scikit-learn's handwritten digits, divided into training, validation and test."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from optadamw.cli.demo.model import initial_network
from optadamw.cli.demo.settings import TEST_SIZE, TRAINING_SIZE, VALIDATION_SIZE
from optadamw.cli.demo.task import Examples, Splits, Task


def load() -> Splits:
    """Return the data: images, float32 `(n, 8, 8, 1)` in [0, 1], and their digits.

    Each part holds the ten digits in the same proportion. The parts do not depend on
    the demo's seed.
    """
    pixels, labels = load_digits(return_X_y=True)
    # Pixels are whole numbers from 0 to 16.
    images = jnp.asarray(pixels / 16, jnp.float32).reshape(-1, 8, 8, 1)
    training, others = train_test_split(
        range(len(labels)),
        train_size=TRAINING_SIZE,
        test_size=VALIDATION_SIZE + TEST_SIZE,
        stratify=labels,
        random_state=0,
    )
    validation, test = train_test_split(
        others, train_size=VALIDATION_SIZE, stratify=labels[others], random_state=0
    )
    labels = jnp.asarray(labels, jnp.int32)
    return Splits(
        *(
            Examples(images[jnp.asarray(part)], labels[jnp.asarray(part)])
            for part in (training, validation, test)
        )
    )


def shift(images: jax.Array, key: jax.Array) -> jax.Array:
    """Move each image at random by up to one pixel in each direction."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    corners = jax.random.randint(key, (len(images), 2), 0, 3)
    return jax.vmap(_window)(padded, corners)


def _window(padded: jax.Array, corner: jax.Array) -> jax.Array:
    return jax.lax.dynamic_slice(padded, (corner[0], corner[1], 0), (8, 8, 1))


def _initial(seed: int) -> Any:
    return initial_network(seed)[1]


def _logits(params: Any, images: jax.Array) -> jax.Array:
    # The static part of the network is the same for every seed.
    return nnx.merge(_GRAPH, params)(images)


_GRAPH, _ = initial_network(0)

DIGITS = Task("Digits", "images", "images", load, _initial, _logits, shift)
