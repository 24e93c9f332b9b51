"""Decoupled weight decay as printed (Algorithm 2), and as its authors' Lua has it."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from tests.peers.rows import Row
from tests.peers.streams import Tree

DEFAULTS = {
    "alpha": 0.001,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "weight_decay": 0.0,
    "weight_decay_norm": None,
    "eta": None,
    "restarts": None,
}


def follow(
    peer: str, row: Row, params: Tree, grads: Iterable[Tree], scalars: str
) -> tuple[list[Tree], dict[str, Tree]]:
    """Follow one row."""
    del peer, scalars
    hyper = {**DEFAULTS, **row.kwargs}
    decay = hyper["weight_decay"]
    if hyper["weight_decay_norm"] is not None:  # appendix B.1
        batches = hyper["points"] / hyper["batch_size"]
        decay = hyper["weight_decay_norm"] * math.sqrt(1 / (batches * hyper["epochs"]))
    b1, b2, eps = hyper["beta1"], hyper["beta2"], hyper["epsilon"]
    m = {name: np.zeros_like(x) for name, x in params.items()}
    v = {name: np.zeros_like(x) for name, x in params.items()}
    result = []
    for t, tree in enumerate(grads, 1):
        eta = _multiplier(hyper, t - 1)
        bc1, bc2 = 1 - b1**t, 1 - b2**t
        params = dict(params)
        for name, g in tree.items():
            m[name] = b1 * m[name] + (1 - b1) * g
            v[name] = b2 * v[name] + (1 - b2) * g * g
            x = params[name]
            if row.function == "lua":  # "epsilon hat"
                step_size = hyper["alpha"] * eta * math.sqrt(bc2) / bc1
                new = x - step_size * m[name] / (np.sqrt(v[name]) + eps)
                params[name] = new - eta * decay * x
                continue
            direction = m[name] / bc1 / (np.sqrt(v[name] / bc2) + eps)
            params[name] = x - eta * (hyper["alpha"] * direction + decay * x)
        result.append(params)
    return result, {"mu": m, "nu": v}


def _multiplier(hyper: dict[str, Any], step: int) -> float:
    """Return the schedule's multiplier: none, a schedule's, or warm restarts (B.2)."""
    if hyper["eta"] is not None:
        return hyper["eta"](step)
    if hyper["restarts"] is None:
        return 1.0
    restarts = hyper["restarts"]
    length = restarts["first"]
    while step >= length:
        step -= length
        length *= restarts["mult"]
    span = restarts["eta_max"] - restarts["eta_min"]
    cosine = 0.5 * (1 + math.cos(math.pi * step / length))
    return restarts["eta_min"] + span * cosine
