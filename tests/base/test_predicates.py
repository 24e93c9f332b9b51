"""Predicates and functions choose parameters, or are refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optadamw
from tests.base.masks import (
    ALL,
    DECAY,
    FIRST,
    KERNELS,
    LEARNING_RATE,
    MODEL,
    PyTree,
    decayed,
    filled,
    is_matrix,
    is_of_the_norm,
    matrices,
    names,
)


def kernels_by_name(params: PyTree) -> PyTree:
    def is_kernel(path: Any, leaf: Any) -> bool:
        del leaf
        return path[-1].key == "kernel"

    return jax.tree_util.tree_map_with_path(is_kernel, params)


class IsIn:
    """A predicate with arguments, as a value."""

    def __init__(self, *paths: str) -> None:
        self.paths = paths

    def __call__(self, path: str, array: Any) -> bool:
        del array
        return path in self.paths


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (is_matrix, KERNELS | {"embedding/table"}),
        (is_of_the_norm, {"norm/scale", "norm/bias"}),
        (IsIn("bias", "norm/scale"), {"bias", "norm/scale"}),
        (matrices, KERNELS | {"embedding/table"}),
        (kernels_by_name, KERNELS),
        (lambda path, array: array.size == 1, {"norm/bias"}),
        (lambda path, array: np.bool_(path == "bias"), {"bias"}),
        (lambda path, array: False, set()),
        (lambda params: True, ALL),
        (lambda params: filled(1.0, params) is None, set()),
        (
            lambda params: {
                "bias": True,
                "embedding": False,
                "layers": [True, False],
                "norm": False,
            },
            FIRST | {"bias"},
        ),
    ],
)
def test_functions_choose(mask, expected):
    assert decayed(mask, MODEL) == expected


def test_a_predicate_sees_the_path_and_an_array_or_its_shape():
    seen: dict[str, Any] = {}

    def looks(path: str, array: Any) -> bool:
        seen[path] = (array.shape, array.dtype, array.ndim, array.size)
        return True

    init = optadamw.adamw(0.1, mask=looks).init
    params = filled(1.0, MODEL)
    expected = {
        name: (x.shape, x.dtype, x.ndim, x.size)
        for name, x in zip(names(params), jax.tree.leaves(params), strict=True)
    }
    init(params)
    assert seen == expected
    seen.clear()
    jax.eval_shape(init, params)
    assert seen == expected


def test_stacked_layers_are_chosen_by_their_rank():
    """Scanned layers have one axis more, which a predicate can take off."""

    def is_matrix_of_a_layer(path: str, array: Any) -> bool:
        return array.ndim - path.startswith("layers/") > 1

    stacked = {
        "layers": {"kernel": np.ones((4, 2, 2)), "bias": np.ones((4, 2))},
        "head": {"kernel": np.ones((2, 3)), "bias": np.ones(3)},
    }
    kernels = {"layers/kernel", "head/kernel"}
    assert decayed(is_matrix_of_a_layer, stacked) == kernels
    assert decayed(is_matrix, stacked) == kernels | {"layers/bias"}


def test_under_vmap_a_predicate_sees_one_model():
    tx = optadamw.adamw(LEARNING_RATE, weight_decay=DECAY, mask=is_matrix)
    params = {"kernel": jnp.ones((5, 2, 2)), "bias": jnp.ones((5, 2))}
    zeros = jax.tree.map(jnp.zeros_like, params)
    state = jax.vmap(tx.init)(params)
    moved, _ = jax.vmap(tx.step)(zeros, state, params)
    assert bool(jnp.all(moved["bias"] == 1.0))
    assert bool(jnp.all(moved["kernel"] == 1.0 - LEARNING_RATE * DECAY))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (lambda path, array: 1, r"`mask`.*bool.*'bias'.*got 1 of type int"),
        (lambda path, array: None, r"`mask`.*bool.*'bias'.*got None"),
        (lambda path, array: "yes", r"`mask`.*bool.*'bias'.*got 'yes'"),
        (lambda path, array: jnp.ones(2, bool), r"`mask`.*bool.*'bias'.*got Array"),
        (lambda params: 1.0, r"`mask`.*bool.*got 1\.0"),
        (lambda params: {"bias": "*"}, r"`mask`.*bool.*'bias'.*got '\*'"),
    ],
)
def test_functions_that_return_no_bools_are_refused(mask, words):
    with pytest.raises(TypeError, match=words):
        optadamw.adamw(0.1, mask=mask).init(filled(1.0, MODEL))


def test_a_predicate_on_traced_values_is_refused():
    tx = optadamw.adamw(0.1, mask=lambda path, array: (array > 0).all())
    with pytest.raises(TypeError, match=r"`mask`.*traced.*Python bools"):
        jax.jit(tx.init)(filled(1.0, MODEL))
