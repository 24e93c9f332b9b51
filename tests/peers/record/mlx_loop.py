"""Run MLX's optimizer, or several under a `MultiOptimizer`, on the CPU."""

from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from tests.peers.feed import feed, matches
from tests.peers.recording import Run
from tests.peers.rows import Row
from tests.peers.streams import SHAPES, Tree
from tests.peers.values import Schedule

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float64": mx.float64}


def nested(tree: Tree, dtype: str) -> dict:
    """Return the leaves as MLX's nested dicts of arrays."""
    return tree_unflatten(
        [
            (name.replace("/", "."), mx.array(np.asarray(leaf)).astype(DTYPES[dtype]))
            for name, leaf in tree.items()
        ]
    )


def flat(tree: Any) -> dict[str, mx.array]:
    """Return {path: array} of nested dicts, with our separators."""
    return {path.replace(".", "/"): leaf for path, leaf in tree_flatten(tree)}


def array_of(array: mx.array) -> np.ndarray:
    """Return a NumPy copy; bfloat16 as float32."""
    if array.dtype == mx.bfloat16:
        array = array.astype(mx.float32)
    return np.array(array)


def argument(value: Any) -> Any:
    """Return a schedule as the callable of an array that MLX asks for."""
    if isinstance(value, Schedule):
        return lambda step: mx.array(value(int(step)), mx.float32)
    return value


def make(row: Row) -> optim.Optimizer:
    """Return the optimizer of a row."""

    def one(kwargs: dict) -> optim.AdamW:
        return optim.AdamW(**{key: argument(value) for key, value in kwargs.items()})

    groups = row.outside.get("groups")
    if not groups:
        return one(dict(row.kwargs))
    parts = [one({**row.kwargs, **overrides}) for overrides in groups.values()]

    def filter_of(pattern: str) -> Any:
        return lambda path, _: matches(path.replace(".", "/"), (pattern,))

    filters = [filter_of(pattern) for pattern in groups]
    return optim.MultiOptimizer([*parts, one(dict(row.kwargs))], filters)


class Loop:
    """One run: nested parameters, and the state made from them before any call."""

    def __init__(self, row: Row, double: bool = False):
        self.row = row
        stream = feed(row)
        self.grads = stream.grads
        self.dtype = "float64" if double else row.dtype
        # A row may say that gradients are wider than the parameters.
        narrow = "float64" if double else row.outside.get("gradients", row.dtype)
        self.gradient_dtype = narrow
        self.params = nested(stream.params, self.dtype)
        self.optimizer = make(row)
        self.optimizer.init(self.params)

    def call(self, grads: Tree) -> None:
        """Hand over the gradients of one call."""
        given = nested(grads, self.gradient_dtype)
        if "clip_grad_norm" in self.row.outside:
            limit = self.row.outside["clip_grad_norm"]
            given, _ = optim.clip_grad_norm(given, limit)
        self.params = self.optimizer.apply_gradients(given, self.params)
        mx.eval(self.params, self.optimizer.state)

    def values(self) -> Tree:
        """Return the parameters now, in the order of the stream."""
        found = flat(self.params)
        return {name: array_of(found[name]) for name in SHAPES}

    def run(self) -> Run:
        """Make all calls and return the trajectory."""
        trajectory = []
        for grads in self.grads:
            self.call(grads)
            trajectory.append(self.values())
        state = self._state()
        final = {
            buffer: {name: array_of(state[f"{name}/{key}"]) for name in SHAPES}
            for buffer, key in (("mu", "m"), ("nu", "v"))
        }
        dtypes = sorted({str(leaf.dtype) for leaf in flat(self.params).values()})
        scalars = {"step": int(state["step"]), "dtypes_at_the_end": dtypes}
        return Run(trajectory, final, scalars)

    def _state(self) -> dict[str, mx.array]:
        if not isinstance(self.optimizer, optim.MultiOptimizer):
            return flat(self.optimizer.state)
        parts = {}
        for part in self.optimizer.optimizers:
            parts.update(flat(part.state))
        return parts
