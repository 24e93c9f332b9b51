"""PyTorch's fused AdamW, its foreach clip, and the average by `_foreach_lerp_`."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import torch

from benchmarks.contenders.contender import Contender, UnavailableError
from benchmarks.workloads import Config, sample


class TorchSession:
    """Parameters with their gradients, one optimizer, one list of averages."""

    def __init__(
        self, config: Config, tree: Any, parameters: Iterable[np.ndarray]
    ) -> None:
        """Puts the parameters on the GPU if there is one, else on the CPU."""
        del tree
        self._config = config
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if jax.default_backend() != "cpu" and self._device.type == "cpu":
            raise UnavailableError("this PyTorch has no accelerator, JAX has one")
        self._parameters = [self._put(p).requires_grad_() for p in parameters]
        self._averages = [p.detach().clone() for p in self._parameters]
        self._incoming: list[torch.Tensor] = []
        self._calls = 0
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=config.learning_rate,
            betas=(config.b1, config.b2),
            eps=config.eps,
            weight_decay=config.weight_decay,
            amsgrad=config.amsgrad,
            fused=True,
        )

    def load(self, gradients: Iterable[np.ndarray]) -> None:
        """Gives each parameter its gradient, or has it ready to be accumulated.

        The clip scales these in place, so that from the second step on their norm is
        the limit; it still reads all, multiplies all and writes all, at each step.
        """
        placed = [self._put(array) for array in gradients]
        if self._config.accumulate_steps is not None:
            self._incoming = placed
            placed = [
                torch.zeros_like(p) if p.grad is None else p.grad
                for p in self._parameters
            ]
        for parameter, gradient in zip(self._parameters, placed, strict=True):
            parameter.grad = gradient

    def move(self) -> None:
        """Copies parameters, gradients, moments and averages to new memory."""
        self._averages = [average.clone() for average in self._averages]
        self._incoming = [gradient.clone() for gradient in self._incoming]
        for p in self._parameters:
            assert p.grad is not None
            p.data, p.grad = p.data.clone(), p.grad.clone()
            state = self._optimizer.state[p]
            state.update({name: value.clone() for name, value in state.items()})

    def step(self) -> None:
        """Runs one step, or adds to the gradients of one; on a GPU, starts it."""
        config = self._config
        accumulated = [p.grad for p in self._parameters if p.grad is not None]
        if config.accumulate_steps is not None:
            # What `backward` does with the gradients of a micro-batch.
            torch._foreach_add_(accumulated, self._incoming)
            self._calls += 1
            if self._calls % config.accumulate_steps:
                return
            torch._foreach_div_(accumulated, config.accumulate_steps)
        if config.clip_global_norm is not None:
            torch.nn.utils.clip_grad_norm_(
                self._parameters, config.clip_global_norm, foreach=True
            )
        self._optimizer.step()
        if config.accumulate_steps is not None:
            torch._foreach_zero_(accumulated)
        if config.ema_decay is not None:
            with torch.no_grad():
                torch._foreach_lerp_(
                    self._averages, self._parameters, 1 - config.ema_decay
                )

    def wait(self) -> None:
        """Waits for the GPU; on the CPU a step has ended when it returns."""
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def parameters(self) -> list[np.ndarray]:
        """Copies the sampled elements of each parameter to the host."""
        return _sampled(self._parameters)

    def average(self) -> list[np.ndarray]:
        """Copies the sampled elements of each parameter's moving average."""
        return _sampled(self._averages)

    def _put(self, array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, device=self._device)


def _sampled(tensors: Iterable[torch.Tensor]) -> list[np.ndarray]:
    return [sample(tensor.detach()).cpu().numpy().copy() for tensor in tensors]


CONTENDER = Contender(TorchSession, program=None)
