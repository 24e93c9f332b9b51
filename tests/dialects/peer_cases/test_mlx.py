"""Cases of MLX's own tests: `test_optimizers.py`."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optadamw.dialects import mlx, torch
from tests.dialects.peer_cases.steps import steps


@pytest.mark.parametrize("bias_correction", [False, True])
def test_mlx_shapes_are_kept(bias_correction):
    params = {"first": [jnp.zeros(10), jnp.zeros(1)], "second": jnp.zeros(1)}
    tx = mlx.AdamW(0.1, bias_correction=bias_correction)
    grads = jax.tree.map(jnp.ones_like, params)
    ((after, state),) = steps(tx, params, grads)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, params)
    for value in jax.tree.leaves(state.mu):
        np.testing.assert_allclose(value, 0.1, rtol=1e-6)
    for value in jax.tree.leaves(state.nu):
        np.testing.assert_allclose(value, 0.001, rtol=1e-6)


def test_mlx_is_pytorchs_adamw_with_the_correction():
    """Its own test: from zeros, with gradients of ones; equal in every bit."""
    start = {"a": jnp.zeros(10), "b": jnp.zeros((3, 4))}
    grads = jax.tree.map(jnp.ones_like, start)
    ours = mlx.AdamW(
        learning_rate=3e-4, betas=[0.9, 0.99], eps=1e-8, weight_decay=0.05,
        bias_correction=True,
    )  # fmt: skip
    theirs = torch.AdamW(lr=3e-4, betas=(0.9, 0.99), weight_decay=0.05)
    for a, b in zip(
        steps(ours, start, grads, 10), steps(theirs, start, grads, 10), strict=True
    ):
        jax.tree.map(np.testing.assert_array_equal, a[0], b[0])


def test_mlx_clip_grad_norm():
    """Small gradients are as they were; large ones have the norm of the limit."""
    grads = {"w1": jnp.array([1.0, 2.0]), "w2": jnp.array(3.0)}
    small = jax.tree.map(lambda g: g * 0.1, grads)
    large = jax.tree.map(lambda g: g * 10, grads)
    tx = mlx.AdamW(0.1, clip_grad_norm=1.0)
    zeros = jax.tree.map(jnp.zeros_like, grads)
    for given, norm in ((small, 0.1 * 14**0.5), (large, 1.0)):
        ((_, state),) = steps(tx, zeros, given)
        found = math.sqrt(sum(jnp.sum((m / 0.1) ** 2) for m in state.mu.values()))
        assert found == pytest.approx(norm, rel=1e-5)
