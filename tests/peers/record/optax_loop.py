"""Build an Optax chain from a row and run it under `jax.jit`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.peers.feed import feed, matches
from tests.peers.recording import Run
from tests.peers.rows import Row
from tests.peers.streams import Tree
from tests.peers.values import Cosine, Decayed, Exponential, PiecewiseTable

BUFFERS = {"mu": "mu", "nu": "nu", "nu_max": "nu_max", "acc_grads": "accumulator"}


def argument(value: Any, names: list[str]) -> Any:
    """Return Optax's own form of a schedule or a mask."""
    match value:
        case Exponential(initial, steps, rate):
            return optax.exponential_decay(initial, steps, rate)
        case Cosine(initial, steps, alpha):
            return optax.cosine_decay_schedule(initial, steps, alpha)
        case PiecewiseTable(boundaries, values):
            constant = [optax.constant_schedule(number) for number in values]
            return optax.join_schedules(constant, list(boundaries))
        case Decayed(patterns):
            return {name: not matches(name, patterns) for name in names}
        case _:
            return value


def make(row: Row, names: list[str]) -> optax.GradientTransformation:
    """Return the transformation of a row: chain, function, then the wrappers."""
    outside = row.outside
    kwargs = {key: argument(value, names) for key, value in row.kwargs.items()}
    function = getattr(optax, row.function)
    if outside.get("inject_hyperparams"):
        function = optax.inject_hyperparams(function)
    parts = [getattr(optax, name)(*args) for name, *args in outside.get("chain", ())]
    parts.append(function(**kwargs))
    if "decay" in outside:
        parts.append(optax.add_decayed_weights(outside["decay"]["weight_decay"]))
        parts.append(optax.scale_by_learning_rate(outside["decay"]["learning_rate"]))
    tx = optax.chain(*parts) if len(parts) > 1 else parts[0]
    if "multi_steps" in outside:
        multi = optax.MultiSteps(tx, **outside["multi_steps"])
        tx = multi.gradient_transformation()
    if "apply_if_finite" in outside:
        tx = optax.apply_if_finite(tx, outside["apply_if_finite"])
    return tx


def array_of(array: Any) -> np.ndarray:
    """Return a NumPy copy; bfloat16 as float32."""
    array = jnp.asarray(array)
    return np.array(array.astype("float32") if array.dtype == "bfloat16" else array)


class Loop:
    """One run: the tree, the state, and the compiled step."""

    def __init__(self, row: Row, double: bool = False):
        self.row = row
        self.dtype = "float64" if double else row.dtype
        stream = feed(row)
        self.grads = stream.grads
        self.params = self.tree(stream.params)
        self.names = list(stream.params)  # JAX sorts the keys of what it returns
        self.tx = make(row, self.names)
        self.state = self.tx.init(self.params)
        self.step = jax.jit(self._step)

    def tree(self, tree: Tree) -> dict[str, jax.Array]:
        """Return arrays of the run's dtype."""
        return {
            name: jnp.asarray(leaf).astype(self.dtype) for name, leaf in tree.items()
        }

    def _step(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        updates, state = self.tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def call(self, grads: Tree) -> None:
        """Hand over the gradients of one call."""
        self.params, self.state = self.step(self.tree(grads), self.state, self.params)

    def values(self) -> Tree:
        """Return the parameters now."""
        return {name: array_of(self.params[name]) for name in self.names}

    def run(self) -> Run:
        """Make all calls and return the trajectory."""
        trajectory = []
        for grads in self.grads:
            self.call(grads)
            trajectory.append(self.values())
        final, scalars = {}, {}
        for field, buffer in BUFFERS.items():
            found = optax.tree_utils.tree_get(self.state, field)
            if found is not None:
                final[buffer] = {name: array_of(found[name]) for name in self.names}
        for field in ("mini_step", "gradient_step", "total_notfinite"):
            found = optax.tree_utils.tree_get(self.state, field)
            if found is not None:
                scalars[field] = int(found)
        adam = optax.tree_utils.tree_get_all_with_path(self.state, "count")
        scalars["counts"] = sorted({int(count) for _, count in adam})
        return Run(trajectory, final, scalars)
