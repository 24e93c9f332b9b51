"""k steps there, moved, k steps here: the trajectory of 2k steps there; and back.

With the real packages, where they are installed. Betas are such that float32 holds
them, so that the peers that take their powers in float32 (Keras, Optax, MLX) take the
same; what is left are a few roundings.
"""

from typing import Any

import jax
import numpy as np
import pytest

from tests.interchange import cases

try:
    import torch
except ImportError:
    torch = None


K = 4
CLOSE = 4.0
"""Units in the last place of the largest number of a leaf."""

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")


def torch_optimizer(made: Any, params: Any, **options: Any) -> Any:
    tensors = [torch.nn.Parameter(torch.tensor(x)) for x in cases.leaves(params)]
    numbers = {"lr": cases.RATE, "betas": (cases.B1, cases.B2)}
    numbers |= {"eps": 2.0**-20, "weight_decay": cases.DECAY}
    return tensors, made(tensors, **(numbers | options))


def torch_steps(tensors: Any, optimizer: Any, params: Any, first: int) -> None:
    for i in range(first, first + K):
        grads = cases.leaves(cases.gradients(params, i))
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.grad = torch.tensor(grad)
        optimizer.step()


def tensors_of(saved: Any) -> Any:
    """Turn arrays into tensors as the docstring of `to_torch` does."""
    return jax.tree.map(
        lambda x: torch.as_tensor(x) if isinstance(x, np.ndarray) else x, saved
    )


def values(tensors: Any) -> list[np.ndarray]:
    return [tensor.detach().numpy().copy() for tensor in tensors]
