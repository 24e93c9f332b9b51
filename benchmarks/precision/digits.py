"""The digits of scikit-learn and a perceptron wide enough to be quantized."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from benchmarks.precision.problem import Batch, Params, Problem

_WIDTHS = (64, 256, 128, 10)
_BATCH, _HELDOUT = 64, 450


def problem(steps: int = 600, peak: float = 3e-3) -> Problem:
    """The perceptron, trained on three quarters of the digits."""
    images, labels = load_digits(return_X_y=True)
    images, labels = images.astype(np.float32) / 16, labels.astype(np.int32)
    # The file is sorted by writer; which digits are held out is the same for all.
    order = np.random.default_rng(0).permutation(len(images))
    held, kept = order[:_HELDOUT], order[_HELDOUT:]

    def batches(seed: int) -> Iterator[Batch]:
        random = np.random.default_rng(seed)
        while True:
            drawn = random.choice(kept, _BATCH, replace=False)
            yield images[drawn], labels[drawn]

    return Problem(
        name="digits",
        steps=steps,
        peak=peak,
        initial=_initial,
        batches=batches,
        heldout=[(images[held], labels[held])],
        loss=_loss,
        about={"batch": _BATCH, "heldout": _HELDOUT},
    )


def _initial(seed: int) -> Params:
    keys = jax.random.split(jax.random.key(seed), len(_WIDTHS) - 1)
    return [
        {
            "kernel": jax.random.normal(key, (rows, columns)) * np.sqrt(2 / rows),
            "bias": jnp.zeros(columns),
        }
        for key, rows, columns in zip(keys, _WIDTHS[:-1], _WIDTHS[1:], strict=True)
    ]


def _loss(params: Params, batch: Batch) -> jax.Array:
    x, labels = batch
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    scores = jax.nn.log_softmax(x @ params[-1]["kernel"] + params[-1]["bias"])
    return -jnp.take_along_axis(scores, labels[:, None], -1).mean()
