"""Optimizers of PyTorch's world, as they are installed, on gradients of JAX.

Nothing of them is written down again here: each takes its own step on torch parameters,
which cross to JAX and back without rounding. torchao compiles its step by itself.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.precision.problem import Params

Make = Callable[[list[Any], dict[str, Any]], Any]


def torch_adamw(parameters: list[Any], arguments: dict[str, Any]) -> Any:
    """PyTorch's own AdamW."""
    import torch

    return torch.optim.AdamW(parameters, **arguments)


def bitsandbytes(parameters: list[Any], arguments: dict[str, Any]) -> Any:
    """AdamW with blockwise 8-bit moments, by the library's own CPU kernel."""
    import bitsandbytes

    return bitsandbytes.optim.AdamW8bit(parameters, **arguments)


def torchao(name: str, **options: Any) -> Make:
    """One of torchao's low-bit AdamW."""

    def make(parameters: list[Any], arguments: dict[str, Any]) -> Any:
        import torchao.optim

        return getattr(torchao.optim, name)(parameters, **arguments, **options)

    return make


class TorchSession:
    """One optimizer of PyTorch and its parameters."""

    def __init__(
        self,
        make: Make,
        params: Params,
        rate: optax.Schedule,
        hyperparameters: dict[str, float],
        seed: int,
    ) -> None:
        """Begins; PyTorch takes the one core that all take."""
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(seed)  # of stochastic rounding
        leaves, self._structure = jax.tree.flatten(params)
        self._parameters = [torch.nn.Parameter(_to_torch(leaf)) for leaf in leaves]
        arguments = {
            "lr": float(rate(0)),
            "betas": (hyperparameters["b1"], hyperparameters["b2"]),
            "eps": hyperparameters["eps"],
            "weight_decay": hyperparameters["weight_decay"],
        }
        self._optimizer = make(self._parameters, arguments)
        self._rate = rate
        self._taken = 0

    def step(self, gradients: Params) -> None:
        leaves = jax.tree.leaves(gradients)
        for parameter, leaf in zip(self._parameters, leaves, strict=True):
            parameter.grad = _to_torch(leaf)
        self._set_rate(float(self._rate(self._taken)))
        self._optimizer.step()
        self._taken += 1

    def parameters(self) -> Params:
        arrays = [_to_jax(parameter.detach()) for parameter in self._parameters]
        return jax.tree.unflatten(self._structure, arrays)

    def kept_bytes(self) -> int:
        found = {}
        for parameter in self._parameters:
            for tensor in (parameter, *self._optimizer.state[parameter].values()):
                # bitsandbytes shares its tables between parameters.
                found |= {plain.data_ptr(): plain.nbytes for plain in _plain(tensor)}
        return sum(found.values())

    def second_moment(self) -> np.ndarray:
        (parameter,) = self._parameters
        state = self._optimizer.state[parameter]
        if "qmap2" in state:
            from bitsandbytes import functional

            return functional.dequantize_blockwise(
                state["state2"],
                absmax=state["absmax2"],
                code=state["qmap2"],
                blocksize=state["state2"].numel() // state["absmax2"].numel(),
            ).numpy()
        nu = state["exp_avg_sq"]
        plain = nu.dequantize() if hasattr(nu, "__tensor_flatten__") else nu
        return plain.float().numpy().copy()

    def _set_rate(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            if isinstance(group["lr"], float):
                group["lr"] = rate
            else:
                group["lr"].fill_(rate)  # torchao keeps a tensor, and asks for this


def _plain(tensor: Any) -> Iterator[Any]:
    """The tensors with memory of their own behind one that wraps codes and scales."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield getattr(tensor, name)
    elif hasattr(tensor, "data_ptr"):
        yield tensor


def _to_torch(array: jax.Array) -> Any:
    import torch

    host = np.array(array)  # a copy: PyTorch writes in place
    if host.dtype == jnp.bfloat16:
        return torch.from_numpy(host.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(host)


def _to_jax(tensor: Any) -> jax.Array:
    import torch

    # A copy: JAX would share the memory, and PyTorch writes in place.
    if tensor.dtype == torch.bfloat16:
        return jnp.array(tensor.view(torch.int16).numpy().view(jnp.bfloat16), copy=True)
    return jnp.array(tensor.numpy(), copy=True)
