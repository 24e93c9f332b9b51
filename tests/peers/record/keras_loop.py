"""Run Keras 3's optimizer on either backend, call by call."""

from typing import Any

import keras
import numpy as np

from tests.peers.feed import feed
from tests.peers.recording import Run
from tests.peers.rows import Row
from tests.peers.streams import Tree
from tests.peers.values import Cosine, Exponential, PiecewiseTable

schedules = keras.optimizers.schedules
JAX = keras.backend.backend() == "jax"


def argument(value: Any) -> Any:
    """Return Keras's own form of a schedule; a zero-argument callable passes."""
    match value:
        case Exponential(initial, steps, rate):
            return schedules.ExponentialDecay(initial, steps, rate)
        case Cosine(initial, steps, alpha):
            return schedules.CosineDecay(initial, steps, alpha)
        case PiecewiseTable(boundaries, values):
            # Keras's boundary still belongs to the value before it.
            return schedules.PiecewiseConstantDecay([b - 1 for b in boundaries], values)
        case _:
            return value


def array_of(tensor: Any) -> np.ndarray:
    """Return the value of a Keras variable or tensor; bfloat16 as float32."""
    if "bfloat16" in str(tensor.dtype):
        tensor = keras.ops.cast(tensor, "float32")
    return np.array(keras.ops.convert_to_numpy(tensor))


class Loop:
    """One run: variables named as the leaves, the optimizer, and a scale around it."""

    def __init__(self, row: Row, double: bool = False):
        # The variable of the rate and what schedules compute in follow this setting.
        keras.config.set_floatx("float64" if double else "float32")
        self.row = row
        self.dtype = "float64" if double else row.dtype
        stream = feed(row)
        self.grads = stream.grads
        self.variables = {
            name: self._variable(name, leaf) for name, leaf in stream.params.items()
        }
        kwargs = {key: argument(value) for key, value in row.kwargs.items()}
        self.inner = keras.optimizers.AdamW(**kwargs)
        if "exclude" in row.outside:
            self.inner.exclude_from_weight_decay(var_names=list(row.outside["exclude"]))
        self.optimizer = self.inner
        if "loss_scale" in row.outside:
            self.optimizer = keras.optimizers.LossScaleOptimizer(
                self.inner, **row.outside["loss_scale"]
            )
        self.optimizer.build(list(self.variables.values()))
        # Outside of jit JAX compiles the branches of an accumulation at every call,
        # and a LossScaleOptimizer's `apply` leaks a tracer.
        compiled = "gradient_accumulation_steps" in kwargs or "loss_scale" in (
            row.outside
        )
        self.step = self._compiled() if JAX and compiled else None

    def _variable(self, name: str, leaf: np.ndarray) -> keras.Variable:
        *scope, last = name.split("/")
        if not scope:
            return keras.Variable(leaf, dtype=self.dtype, name=last)
        with keras.name_scope(scope[0]):
            return keras.Variable(leaf, dtype=self.dtype, name=last)

    def _compiled(self) -> Any:
        import jax

        return jax.jit(self.optimizer.stateless_apply)

    def call(self, grads: Tree) -> None:
        """Hand over the gradients of one call."""
        scale = 1.0
        if self.optimizer is not self.inner:
            scale = array_of(self.optimizer.dynamic_scale)
        names = [name for name in self.variables if name in grads]
        given = [
            keras.ops.convert_to_tensor(
                np.asarray(grads[name] * np.float32(scale)), dtype=self.dtype
            )
            for name in names
        ]
        variables = [self.variables[name] for name in names]
        if self.step is None:
            self.optimizer.apply(given, variables)
            return
        new, state = self.step(
            [variable.value for variable in self.optimizer.variables],
            given,
            [variable.value for variable in variables],
        )
        for variable, value in zip(variables, new, strict=True):
            variable.assign(value)
        for variable, value in zip(self.optimizer.variables, state, strict=True):
            variable.assign(value)

    def values(self) -> Tree:
        """Return the parameters now."""
        return {name: array_of(v.value) for name, v in self.variables.items()}

    def run(self) -> Run:
        """Make all calls and return the trajectory."""
        trajectory = []
        for grads in self.grads:
            self.call(grads)
            trajectory.append(self.values())
        buffers = self.buffers()
        if self.row.outside.get("finalize"):
            self.optimizer.finalize_variable_values(list(self.variables.values()))
            buffers["finalized"] = self.values()
        return Run(trajectory, buffers, self.scalars())

    def buffers(self) -> dict[str, Tree]:
        """Return the optimizer's per-variable state, in the library's names."""
        attributes = {
            "mu": "_momentums",
            "nu": "_velocities",
            "nu_max": "_velocity_hats",
            "ema": "_model_variables_moving_average",
            "accumulator": "_accumulated_gradients",
        }
        found = {}
        for buffer, attribute in attributes.items():
            kept = getattr(self.inner, attribute, None)
            if kept:
                found[buffer] = {
                    name: array_of(leaf.value)
                    for name, leaf in zip(self.variables, kept, strict=True)
                }
        return found

    def scalars(self) -> dict[str, Any]:
        """Return the counters."""
        scalars = {"iterations": int(array_of(self.inner._iterations.value))}
        if self.optimizer is not self.inner:
            scalars["dynamic_scale"] = float(array_of(self.optimizer.dynamic_scale))
            scalars["step_counter"] = int(array_of(self.optimizer.step_counter))
        return scalars
