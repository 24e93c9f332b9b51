"""AdamW as Keras 3, tf.keras (Keras 2) and TensorFlow Addons compute it.

One call, in order: divide by the loss scale, accumulate, clip, decay, moments, step,
average, overwrite by the average, count. The step has "epsilon hat": epsilon stands
beside the uncorrected root.
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from tests.peers.feed import matches
from tests.peers.rows import Row
from tests.peers.streams import Tree
from tests.peers.values import Schedule, at

DEFAULTS = {
    "learning_rate": 0.001,
    "weight_decay": 0.004,
    "beta_1": 0.9,
    "beta_2": 0.999,
    "epsilon": 1e-7,
    "amsgrad": False,
    "clipnorm": None,
    "clipvalue": None,
    "global_clipnorm": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
    "decay": 0.0,
    "exclude_from_weight_decay": None,
}


def follow(
    peer: str, row: Row, params: Tree, grads: Iterable[Tree], scalars: str
) -> tuple[list[Tree], dict[str, Tree]]:
    """Follow one row of Keras 3, Keras 2 or Addons."""
    optimizer = _Optimizer(peer, row, params, scalars)
    result = []
    for tree in grads:
        optimizer.call(tree)
        result.append(optimizer.params)
    buffers = ("mu", "nu", "nu_max", "ema", "accumulator")
    found = {buffer: getattr(optimizer, buffer) for buffer in buffers}
    return result, {**found, "finalized": optimizer.ema}


class _Optimizer:
    """The optimizer between two calls; `params` is a new dict after every call."""

    def __init__(self, peer: str, row: Row, params: Tree, scalars: str):
        self.peer, self.row, self.params = peer, row, params
        self.hyper: dict[str, Any] = {**DEFAULTS, **row.kwargs}
        if peer == "tfa" and not self.hyper["epsilon"]:
            self.hyper["epsilon"] = 1e-7  # zero counts as not given
        self.scalars = scalars
        self.real = np.float32 if scalars == "float32" else np.float64
        zeros = {name: np.zeros_like(leaf) for name, leaf in params.items()}
        self.mu, self.nu, self.nu_max = dict(zeros), dict(zeros), dict(zeros)
        self.accumulator = dict(zeros)
        self.ema = dict(params) if peer == "tf_keras" else dict(zeros)
        self.calls = 0  # gradient calls that reached the optimizer
        self.scale = dict(row.outside.get("loss_scale", {}))
        self.finite_calls = 0

    def call(self, grads: Tree) -> None:
        """Take the gradients of one call."""
        self.params = dict(self.params)
        if self.scale and not self._scaled(grads):
            if self.peer == "tf_keras":
                self.calls += 1  # Keras 2 counts a skipped call, Keras 3 does not
            return
        factor = self.hyper["loss_scale_factor"]
        if factor is not None:
            grads = {name: g / factor for name, g in grads.items()}
        k = self.hyper["gradient_accumulation_steps"] or 1
        if (self.calls + 1) % k == 0:
            for name, g in grads.items():
                grads[name] = (self.accumulator[name] + g) / k
                self.accumulator[name] = np.zeros_like(g)
            self._update(self._clip(grads), self.calls // k)
        else:
            for name, g in grads.items():
                self.accumulator[name] = self.accumulator[name] + g
        if self.hyper["use_ema"]:
            self._average(self.calls // k)
        self.calls += 1

    def _scaled(self, grads: Tree) -> bool:
        """Follow the dynamic scale (a power of two, which cancels)."""
        finite = all(np.isfinite(g).all() for g in grads.values())
        if not finite:
            self.scale["initial_scale"] *= 0.5
            self.finite_calls = 0
        else:
            self.finite_calls += 1
            if self.finite_calls == self.scale["dynamic_growth_steps"]:
                self.scale["initial_scale"] *= 2.0
                self.finite_calls = 0
        return finite

    def _clip(self, grads: Tree) -> Tree:
        c = self.hyper["clipvalue"]
        clipped = {name: np.clip(g, -c, c) for name, g in grads.items()} if c else grads
        norms = self.hyper["clipnorm"] or self.hyper["global_clipnorm"]
        if not norms:
            return clipped
        # Addons clips by value first and then by a norm; Keras does only one of them.
        grads = clipped if self.peer == "tfa" else grads
        squares = {name: np.sum(g * g) for name, g in grads.items()}
        if not self.hyper["clipnorm"]:
            squares = dict.fromkeys(squares, sum(squares.values()))
        largest = {name: np.maximum(np.sqrt(squares[name]), norms) for name in grads}
        if self.peer == "keras_torch" and self.scalars == "float64":
            # `ops.maximum` of a float64 tensor and a number is float32 there.
            largest = {name: float(np.float32(n)) for name, n in largest.items()}
            if not self.hyper["clipnorm"]:
                norm = np.sqrt(next(iter(squares.values())))
                factor = np.float32(norms) * np.float32(min(1 / norm, 1 / norms))
                return {name: g * float(factor) for name, g in grads.items()}
        return {name: g * norms / largest[name] for name, g in grads.items()}

    def _update(self, grads: Tree, iterations: int) -> None:
        real, hyper = self.real, self.hyper
        # Schedules see calls, the moments' bias correction sees updates.
        lr = at(hyper["learning_rate"], self.calls)
        if isinstance(hyper["learning_rate"], Schedule):
            lr = self._constant(lr)
        lr = real(lr)
        if self.peer == "tfa":
            lr = real(self._constant(lr))
        if hyper["decay"]:
            lr = real(lr / (1.0 + self._constant(hyper["decay"]) * self.calls))
        wd = real(self._constant(at(hyper["weight_decay"], self.calls)))
        t = real(iterations + 1)
        b1, b2 = (real(self._constant(hyper[key])) for key in ("beta_1", "beta_2"))
        power1, power2 = b1**t, b2**t
        alpha = float(lr * np.sqrt(real(1) - power2) / (real(1) - power1))
        share1, share2 = 1 - hyper["beta_1"], 1 - hyper["beta_2"]
        if self.peer == "tfa":  # its betas are variables
            share1, share2 = 1 - float(b1), 1 - float(b2)
        for name, g in grads.items():
            x = self.params[name]
            if self._decays(name):
                x = self._decayed(x, float(lr), float(wd))
            m = self.mu[name] + (g - self.mu[name]) * share1
            v = self.nu[name] + (g * g - self.nu[name]) * share2
            self.mu[name], self.nu[name] = m, v
            if hyper["amsgrad"]:
                v = self.nu_max[name] = np.maximum(self.nu_max[name], v)
            self.params[name] = x - m * alpha / (np.sqrt(v) + hyper["epsilon"])

    def _constant(self, number: float) -> float:
        """A Python number becomes a float32 tensor in TensorFlow, whatever follows."""
        narrow = self.peer in ("tf_keras", "tfa") and self.scalars != "exact"
        return float(np.float32(number)) if narrow else number

    def _decayed(self, x: np.ndarray, lr: float, wd: float) -> np.ndarray:
        if self.peer == "tfa":
            return x - x * wd
        if self.peer == "keras_torch":
            # One multiplication by a factor that is rounded at every step alike.
            return x * float(self.real(1 - self.hyper["weight_decay"] * lr))
        return x - x * wd * lr

    def _decays(self, name: str) -> bool:
        """Say whether a leaf decays: each peer searches another text."""
        outside = self.row.outside
        if "decay_var_list" in outside:
            return matches(name, outside["decay_var_list"])
        patterns = outside.get("exclude") or self.hyper["exclude_from_weight_decay"]
        text = name.rsplit("/", 1)[-1] if self.peer.startswith("keras") else f"{name}:0"
        return not any(re.search(pattern, text) for pattern in patterns or ())

    def _average(self, iterations: int) -> None:
        """Keras 3 copies at its first updates; Keras 2 began with the parameters."""
        momentum = self.hyper["ema_momentum"]
        if self.peer != "tf_keras" and iterations == 0:
            momentum = 0.0
        rest = 1 - momentum
        if self.peer == "tf_keras" and self.scalars == "float32":
            # Rounded one by one they miss a sum of 1 by 2e-8, at every call.
            momentum, rest = float(np.float32(momentum)), float(np.float32(rest))
        frequency = self.hyper["ema_overwrite_frequency"]
        for name, x in self.params.items():
            self.ema[name] = momentum * self.ema[name] + rest * x
            if frequency and (iterations + 1) % frequency == 0:
                self.params[name] = self.ema[name]
