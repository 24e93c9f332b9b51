"""AdamW as MLX computes it: by default without any bias correction."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from tests.peers.feed import split_groups
from tests.peers.rows import Row
from tests.peers.streams import Tree
from tests.peers.values import at

DEFAULTS = {
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0.01,
    "bias_correction": False,
}


def follow(
    peer: str, row: Row, params: Tree, grads: Iterable[Tree], scalars: str
) -> tuple[list[Tree], dict[str, Tree]]:
    """Follow one row, one optimizer per group of a `MultiOptimizer`."""
    del peer
    result = []
    mu: Tree = {}
    nu: Tree = {}
    groups = split_groups(row, list(params))
    for step, tree in enumerate(grads, 1):
        tree = _clip(tree, row.outside.get("clip_grad_norm"))
        params = dict(params)
        for overrides, names in groups:
            hyper = {**DEFAULTS, **row.kwargs, **overrides}
            b1, b2 = hyper["betas"]
            lr = at(hyper["learning_rate"], step - 1)  # of the step before
            for name in names:
                g = tree[name]
                m = mu[name] = b1 * mu.get(name, 0.0) + (1 - b1) * g
                v = nu[name] = b2 * nu.get(name, 0.0) + (1 - b2) * g * g
                params[name] = _step(params[name], m, v, lr, step, hyper, scalars)
        result.append(params)
    return result, {"mu": mu, "nu": nu}


def _clip(grads: Tree, limit: float | None) -> Tree:
    if limit is None:
        return grads
    norm = np.sqrt(sum(np.sum(g * g) for g in grads.values()))
    factor = min(limit / (norm + 1e-6), 1.0)
    return {name: g * factor for name, g in grads.items()}


def _step(
    x: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    lr: float,
    step: int,
    hyper: dict[str, Any],
    scalars: str,
) -> np.ndarray:
    """Decay, then step. The rate and the powers of beta are float32 in every run."""
    real = np.float64 if scalars == "exact" else np.float32
    lr = float(real(lr))
    factor = 1 - lr * hyper["weight_decay"]
    if scalars == "float32":
        wd = np.float32(hyper["weight_decay"])
        factor = float(np.float32(1) - np.float32(lr) * wd)
    x = x * factor
    if not hyper["bias_correction"]:
        return x - lr * m / (np.sqrt(v) + hyper["eps"])
    bc1, bc2 = (real(1) - real(b) ** real(step) for b in hyper["betas"])
    c1 = lr / float(bc1)
    c2 = float(real(1) / np.sqrt(bc2))
    return x - c1 * m / (np.sqrt(v) * c2 + hyper["eps"])
