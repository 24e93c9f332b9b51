"""AdamW as Optax composes it: a direction, decayed weights, then the rate."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from tests.peers.feed import matches
from tests.peers.rows import Row
from tests.peers.streams import Tree
from tests.peers.values import Decayed, at

DEFAULTS = {
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-8,
    "eps_root": 0.0,
    "weight_decay": 1e-4,
    "mask": Decayed(()),
    "nesterov": False,
    "mu_dtype": None,
    "bias_correction_mu": True,
    "bias_correction_nu": True,
}


def follow(
    peer: str, row: Row, params: Tree, grads: Iterable[Tree], scalars: str
) -> tuple[list[Tree], dict[str, Tree]]:
    """Follow one row: the wrappers here, the chain in `_Chain`."""
    del peer
    chain = _Chain(row, params, scalars)
    wrapper = row.outside.get("multi_steps", {})
    k, mean = wrapper.get("every_k_schedule", 1), wrapper.get("use_grad_mean", True)
    skips = "apply_if_finite" in row.outside
    accumulator: Tree = {}
    result = []
    n = 0
    for tree in grads:
        finite = all(np.isfinite(g).all() for g in tree.values())
        if finite or not skips:
            for name, g in tree.items():
                old = accumulator[name] if n else 0.0
                if scalars == "float64":
                    old = np.float64(np.float32(old))  # `accumulator_dtype` stays so
                accumulator[name] = old + ((g - old) / (n + 1) if mean else g)
            n = (n + 1) % k
            if n == 0:
                chain.update(accumulator)
        result.append(chain.params)
    left = accumulator if n else {name: np.zeros_like(x) for name, x in params.items()}
    buffers = {"mu": chain.mu, "nu": chain.nu, "nu_max": chain.nu_max}
    return result, {**buffers, "accumulator": left}


class _Chain:
    def __init__(self, row: Row, params: Tree, scalars: str):
        self.row, self.params = row, params
        self.hyper: dict[str, Any] = {**DEFAULTS, **row.kwargs}
        if row.function == "nadamw":
            self.hyper["nesterov"] = True
        if row.function in ("amsgrad", "scale_by_amsgrad"):
            self.hyper["weight_decay"] = 0.0
        self.hyper.update(row.outside.get("decay", {}))
        self.scalars = scalars
        # In a float64 run JAX's powers are float64 too.
        self.real = np.float32 if scalars == "float32" else np.float64
        if row.outside.get("inject_hyperparams") and scalars == "float32":
            # Every number becomes a float32 array, `1 - b` included.
            numbers = ("b1", "b2", "weight_decay", "learning_rate", "eps")
            for key in numbers:
                self.hyper[key] = float(np.float32(self.hyper[key]))
        self.count = 0
        self.mu: Tree = {}
        self.nu: Tree = {}
        self.nu_max: Tree = {}

    def update(self, grads: Tree) -> None:
        for name, *args in self.row.outside.get("chain", ()):
            grads = CLIPS[name](grads, self.params, *args)
        hyper = self.hyper
        lr = float(self.real(at(hyper["learning_rate"], self.count)))
        wd = float(self.real(at(hyper["weight_decay"], self.count)))
        self.count += 1
        params = dict(self.params)
        for name, g in grads.items():
            direction = self._direction(name, g)
            if not matches(name, hyper["mask"].except_for):
                direction = direction + wd * params[name]
            params[name] = params[name] - lr * direction
        self.params = params

    def _correction(self, b: float, count: int) -> float:
        real = self.real
        return float(real(1) - real(b) ** real(count))

    def _direction(self, name: str, g: np.ndarray) -> np.ndarray:
        hyper, t = self.hyper, self.count
        b1, b2 = hyper["b1"], hyper["b2"]
        old = self.mu.get(name, np.zeros_like(g))
        # Where the stored moment is bfloat16, so are the factor (0.8 is then 0.80078)
        # and the product with it: that is what JAX makes of a Python number.
        # Compiled in float32, XLA keeps the product in the precision it is added in.
        dtype = hyper["mu_dtype"]
        product = b1 * old
        if self.scalars != "exact":
            product = _stored(np.float64(b1), dtype) * old
        if self.scalars == "float64":
            product = _stored(product, dtype)
        m = (1 - b1) * g + product
        v = self.nu[name] = (1 - b2) * g * g + b2 * self.nu.get(name, 0.0)
        self.mu[name] = _stored(m, dtype)
        if self.row.function in ("amsgrad", "scale_by_amsgrad"):
            return self._amsgrad(name, m, v)
        m_hat = m / self._correction(b1, t)
        if hyper["nesterov"]:
            later = b1 * m / self._correction(b1, t + 1)
            m_hat = later + (1 - b1) * g / self._correction(b1, t)
        v_hat = v / self._correction(b2, t)
        return m_hat / (np.sqrt(v_hat + hyper["eps_root"]) + hyper["eps"])

    def _amsgrad(self, name: str, m: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The maximum is taken of the corrected second moment."""
        hyper, t = self.hyper, self.count
        if hyper["bias_correction_mu"]:
            m = m / self._correction(hyper["b1"], t)
        if hyper["bias_correction_nu"]:
            v = v / self._correction(hyper["b2"], t)
        v = self.nu_max[name] = np.maximum(self.nu_max.get(name, 0.0), v)
        return m / (np.sqrt(v + hyper["eps_root"]) + hyper["eps"])


def _stored(m: np.ndarray, dtype: str | None) -> np.ndarray:
    """Round to bfloat16 if that is what `mu_dtype` says."""
    if dtype != "bfloat16":
        return m
    fraction, exponent = np.frexp(m)
    return np.ldexp(np.rint(np.ldexp(fraction, 8)), exponent - 8)


def _clip(grads: Tree, params: Tree, limit: float) -> Tree:
    return {name: np.clip(g, -limit, limit) for name, g in grads.items()}


def _clip_by_global_norm(grads: Tree, params: Tree, limit: float) -> Tree:
    norm = np.sqrt(sum(np.sum(g * g) for g in grads.values()))
    if norm < limit:
        return grads
    return {name: g / norm * limit for name, g in grads.items()}


def _clip_by_block_rms(grads: Tree, params: Tree, limit: float) -> Tree:
    return {
        name: g / np.maximum(1.0, np.sqrt(np.mean(g * g)) / limit)
        for name, g in grads.items()
    }


def _adaptive_grad_clip(
    grads: Tree, params: Tree, limit: float, eps: float = 1e-3
) -> Tree:
    """Per unit, that is per column of a matrix, else over the whole leaf."""
    clipped = {}
    for name, g in grads.items():
        axis = -2 if g.ndim > 1 else None
        norm = np.sqrt(np.sum(g * g, axis=axis, keepdims=True))
        size = np.sqrt(np.sum(params[name] ** 2, axis=axis, keepdims=True))
        largest = limit * np.maximum(size, eps)
        scaled = g * (largest / np.maximum(norm, 1e-6))
        clipped[name] = np.where(norm < largest, g, scaled).reshape(g.shape)
    return clipped


CLIPS = {
    "clip": _clip,
    "clip_by_global_norm": _clip_by_global_norm,
    "clip_by_block_rms": _clip_by_block_rms,
    "adaptive_grad_clip": _adaptive_grad_clip,
}
