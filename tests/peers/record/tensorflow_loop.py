"""Run an optimizer of TensorFlow 2.14: tf.keras's AdamW or that of Addons."""

from typing import Any

import numpy as np
import tensorflow as tf

from tests.peers.feed import feed, matches
from tests.peers.recording import Run
from tests.peers.rows import Row
from tests.peers.streams import Tree
from tests.peers.values import Cosine, Exponential, PiecewiseTable

schedules = tf.keras.optimizers.schedules


def argument(value: Any) -> Any:
    """Return TensorFlow's own form of a schedule; a callable passes."""
    match value:
        case Exponential(initial, steps, rate):
            return schedules.ExponentialDecay(initial, steps, rate)
        case Cosine(initial, steps, alpha):
            return schedules.CosineDecay(initial, steps, alpha)
        case PiecewiseTable(boundaries, values):
            # TensorFlow's boundary still belongs to the value before it.
            before = [boundary - 1 for boundary in boundaries]
            return schedules.PiecewiseConstantDecay(before, list(values))
        case _:
            return value


def array_of(tensor: Any) -> np.ndarray:
    """Return a NumPy copy; bfloat16 as float32."""
    tensor = tf.convert_to_tensor(tensor)
    return np.array(
        tf.cast(tensor, tf.float32) if tensor.dtype == tf.bfloat16 else tensor
    )


class Loop:
    """One run: variables named as the leaves, and the optimizer."""

    def __init__(self, row: Row, make: Any, double: bool = False):
        # The variable of the rate follows this setting.
        tf.keras.backend.set_floatx("float64" if double else "float32")
        self.row = row
        self.dtype = tf.as_dtype("float64" if double else row.dtype)
        stream = feed(row)
        self.grads = stream.grads
        self.variables = {
            name: tf.Variable(tf.cast(leaf, self.dtype), name=name)
            for name, leaf in stream.params.items()
        }
        kwargs = {key: argument(value) for key, value in row.kwargs.items()}
        self.inner = self.optimizer = make(**kwargs)
        if "exclude" in row.outside:
            self.inner.exclude_from_weight_decay(var_names=list(row.outside["exclude"]))
        if "loss_scale" in row.outside:
            self.optimizer = tf.keras.mixed_precision.LossScaleOptimizer(
                self.inner, **row.outside["loss_scale"]
            )
        self.extra = {}
        if "decay_var_list" in row.outside:
            patterns = row.outside["decay_var_list"]
            self.extra["decay_var_list"] = [
                variable
                for name, variable in self.variables.items()
                if matches(name, patterns)
            ]

    def call(self, grads: Tree) -> None:
        """Hand over the gradients of one call, scaled where there is a scale."""
        given = [tf.cast(grads[name], self.dtype) for name in self.variables]
        if self.optimizer is not self.inner:
            scale = tf.cast(self.optimizer.loss_scale, self.dtype)
            given = [g * scale for g in given]
            given = self.optimizer.get_unscaled_gradients(given)
        pairs = list(zip(given, self.variables.values(), strict=True))
        self.optimizer.apply_gradients(pairs, **self.extra)

    def values(self) -> Tree:
        """Return the parameters now."""
        return {name: array_of(v) for name, v in self.variables.items()}

    def run(self) -> Run:
        """Make all calls and return the trajectory."""
        trajectory = []
        for grads in self.grads:
            self.call(grads)
            trajectory.append(self.values())
        buffers = self.buffers()
        if self.row.outside.get("finalize"):
            self.inner.finalize_variable_values(list(self.variables.values()))
            buffers["finalized"] = self.values()
        return Run(trajectory, buffers, self.scalars())

    def scalars(self) -> dict[str, Any]:
        """Return the counters."""
        scalars: dict[str, Any] = {"iterations": int(self.inner.iterations)}
        if self.optimizer is not self.inner:
            scalars["dynamic_scale"] = float(self.optimizer.loss_scale)
            scalars["dynamic_counter"] = int(self.optimizer.dynamic_counter)
        return scalars

    def buffers(self) -> dict[str, Tree]:
        """Return the per-variable state, in the library's names."""
        if hasattr(self.inner, "get_slot_names"):  # the older kind, of Addons
            slots = {"mu": "m", "nu": "v", "nu_max": "vhat"}
            kept = {
                buffer: [self.inner.get_slot(v, slot) for v in self.variables.values()]
                for buffer, slot in slots.items()
                if slot in self.inner.get_slot_names()
            }
        else:
            attributes = {
                "mu": "_momentums",
                "nu": "_velocities",
                "nu_max": "_velocity_hats",
                "ema": "_model_variables_moving_average",
            }
            kept = {
                buffer: getattr(self.inner, attribute, None)
                for buffer, attribute in attributes.items()
            }
        return {
            buffer: {
                name: array_of(leaf)
                for name, leaf in zip(self.variables, leaves, strict=True)
            }
            for buffer, leaves in kept.items()
            if leaves
        }
