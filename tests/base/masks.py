"""A small model, masks over it, and which of its parameters a mask decays."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import optadamw

PyTree = Any
LEARNING_RATE, DECAY, VALUE, GRADIENT, EPS = 0.125, 0.5, 2.0, 0.25, 1e-8


def filled(value: float, like: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.full(jnp.shape(x), value, jnp.float32), like)


def names(tree: PyTree) -> list[str]:
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(k, simple=True, separator="/") for k, _ in flat]


def decayed(mask: Any, like: PyTree) -> set[str]:
    """Take the first step of AdamW, and return the paths that were decayed.

    By hand, its direction is g / (|g| + eps); each leaf has to follow one of both
    formulas to an ULP.
    """
    params = filled(VALUE, like)
    tx = optadamw.adamw(LEARNING_RATE, eps=EPS, weight_decay=DECAY, mask=mask)
    moved, _ = tx.step(filled(GRADIENT, like), tx.init(params), params)
    plain = VALUE - LEARNING_RATE * GRADIENT / (GRADIENT + EPS)
    shrunk = plain - LEARNING_RATE * DECAY * VALUE
    chosen = set()
    for name, leaf in zip(names(params), jax.tree.leaves(moved), strict=True):
        is_decayed = abs(float(leaf.ravel()[0]) - shrunk) < abs(shrunk - plain) / 2
        expected = np.full(leaf.shape, shrunk if is_decayed else plain, np.float32)
        np.testing.assert_array_max_ulp(np.asarray(leaf), expected, 1)
        if is_decayed:
            chosen.add(name)
    return chosen


def layer() -> dict[str, Any]:
    return {"kernel": np.ones((2, 2)), "bias": np.ones(2)}


MODEL = {
    "bias": np.ones(2),
    "embedding": {"table": np.ones((3, 2))},
    "layers": [layer(), layer()],
    "norm": {"scale": np.ones(2), "bias": np.ones(())},
}

ALL = set(names(MODEL))
KERNELS = {"layers/0/kernel", "layers/1/kernel"}
FIRST = {"layers/0/kernel", "layers/0/bias"}


def is_matrix(path: str, array: Any) -> bool:
    del path
    return array.ndim > 1


def is_of_the_norm(path: str, array: Any) -> bool:
    del array
    return path.startswith("norm/")


def matrices(params: PyTree) -> PyTree:
    return jax.tree.map(lambda p: p.ndim > 1, params)


class Pair(NamedTuple):
    """A container with fields."""

    left: Any
    right: Any
