"""The training loop around an optimizer of PyTorch's kind: groups, clips, scaler."""

from typing import Any

import numpy as np
import torch

from tests.peers.feed import feed, split_groups
from tests.peers.recording import Run
from tests.peers.rows import Row
from tests.peers.streams import Tree
from tests.peers.values import Tensor

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "complex64": torch.complex64,
}
DOUBLE = {torch.float32: torch.float64, torch.complex64: torch.complex128}
BUFFERS = {"exp_avg": "mu", "exp_avg_sq": "nu", "max_exp_avg_sq": "nu_max"}


def tensor_of(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """Return a copy of `array` as a tensor, of shape () too."""
    return torch.from_numpy(np.array(array)).to(dtype)


def array_of(tensor: torch.Tensor) -> np.ndarray:
    """Return a copy of `tensor`; bfloat16 as float32, which holds it exactly."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return np.array(tensor.numpy())


def _argument(value: Any, double: bool) -> Any:
    if isinstance(value, Tensor):
        dtype = torch.float64 if double else torch.float32
        return torch.full(value.shape, value.value, dtype=dtype)
    if isinstance(value, tuple):
        return tuple(_argument(item, double) for item in value)
    return value


class Loop:
    """One run: the parameters, the optimizer and all that stands around it."""

    def __init__(self, row: Row, make: Any, double: bool = False):
        self.row = row
        self.calls = 0
        stream = feed(row)
        dtype = DTYPES[row.dtype]
        self.dtype = DOUBLE[dtype] if double else dtype
        trained = not row.kwargs.get("differentiable", False)
        self.params = {
            name: tensor_of(leaf, self.dtype).requires_grad_(trained)
            for name, leaf in stream.params.items()
        }
        self.grads = stream.grads
        kwargs = {key: _argument(item, double) for key, item in row.kwargs.items()}
        if "groups" in row.outside:
            given = [
                {**overrides, "params": [self.params[name] for name in names]}
                for overrides, names in split_groups(row, list(self.params))
            ]
        else:
            given = list(self.params.values())
        self.optimizer = make(given, **kwargs)
        outside = row.outside
        self.scheduler = self.scaler = self.average = None
        if "lambda_lr" in outside:
            self.scheduler = torch.optim.lr_scheduler.LambdaLR(
                self.optimizer, outside["lambda_lr"]
            )
        if "grad_scaler" in outside:
            self.scaler = torch.amp.GradScaler("cpu", **outside["grad_scaler"])
            self.scaler.scale(torch.zeros(()))  # the scale is made at the first use
        if "average" in outside:
            self.average = {
                name: param.detach().clone() for name, param in self.params.items()
            }
            self.averaged = 0
            self.move = torch.optim.swa_utils.get_ema_multi_avg_fn(outside["average"])

    def call(self, grads: Tree) -> None:
        """Hand over the gradients of one call, and step unless accumulating."""
        outside, call = self.row.outside, self.calls
        self.calls += 1
        k = outside.get("accumulation", 1)
        scale = self.scaler.get_scale() if self.scaler else 1.0
        for name, param in self.params.items():
            if call % k == 0:
                param.grad = None
            if name not in grads:
                continue
            grad = tensor_of(grads[name], self.dtype) * scale / k
            param.grad = grad if param.grad is None else param.grad + grad
        if (call + 1) % k:
            return
        self._clip()
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        if self.scheduler:
            self.scheduler.step()
        if self.average is not None:
            self._average()

    def _clip(self) -> None:
        outside, params = self.row.outside, list(self.params.values())
        if self.scaler and "clip_grad_norm" in outside:
            self.scaler.unscale_(self.optimizer)
        if "clip_grad_norm" in outside:
            torch.nn.utils.clip_grad_norm_(params, outside["clip_grad_norm"])
        if "clip_grad_value" in outside:
            torch.nn.utils.clip_grad_value_(params, outside["clip_grad_value"])

    def _average(self) -> None:
        """Move the average as `AveragedModel` does: the first call copies."""
        new = [param.detach() for param in self.params.values()]
        if self.averaged == 0:
            self.average = {
                name: param.detach().clone() for name, param in self.params.items()
            }
        else:
            self.move(list(self.average.values()), new, self.averaged)
        self.averaged += 1

    def values(self) -> Tree:
        """Return the parameters now."""
        return {name: array_of(param) for name, param in self.params.items()}

    def run(self) -> Run:
        """Make all calls and return the trajectory."""
        trajectory = []
        for grads in self.grads:
            self.call(grads)
            trajectory.append(self.values())
        return Run(trajectory, self.buffers(), self.scalars())

    def buffers(self) -> dict[str, Tree]:
        """Return the moments at the end, in the library's names."""
        found: dict[str, Tree] = {}
        for key, buffer in BUFFERS.items():
            tree = {}
            for name, param in self.params.items():
                value = self.optimizer.state[param].get(key)
                if isinstance(value, torch.Tensor):
                    tree[name] = array_of(value)
            if tree:
                found[buffer] = tree
        if self.average is not None:
            found["ema"] = {name: array_of(leaf) for name, leaf in self.average.items()}
        return found

    def scalars(self) -> dict[str, Any]:
        """Return the step counts, and the scale where there is one."""
        steps = {}
        for name, param in self.params.items():
            step = self.optimizer.state[param].get("step")
            if step is not None:
                steps[name] = float(step)
        scalars: dict[str, Any] = {"step": steps}
        if self.scaler:
            scalars["scale"] = self.scaler.get_scale()
            scalars["growth_tracker"] = self.scaler._get_growth_tracker()
        return scalars
