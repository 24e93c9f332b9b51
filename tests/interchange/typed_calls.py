"""Calls that a strict type checker must take or refuse (`mypy --strict`).

A line that must be refused says so with `type: ignore`; a line that is not refused then
is an unused one, which is an error too.
"""

from typing import Any

import jax.numpy as jnp

import optadamw
from optadamw.interchange import from_keras, from_torch, to_keras, to_torch

params = {"w": jnp.zeros(2)}
tx = optadamw.adamw(1e-3)
saved: dict[str, Any] = {}


def accepted() -> optadamw.State:
    to_torch(tx.init(params), params, tx=tx, names=["w"], groups=[{"lr": 1e-3}])
    to_keras(tx.init(params), params, learning_rate="schedule", drop=("ema",))
    from_keras(saved, params, tx=tx, use_ema=True, afresh=("ema",))
    return from_torch(saved, params, missing="zeros", layout=lambda path, x: x.T)


def refused() -> None:
    from_torch(saved, params, missing="nothing")  # type: ignore[arg-type]
    from_torch(saved, params, nmes=["w"])  # type: ignore[call-arg]
    from_torch(saved, params, use_ema=True)  # type: ignore[call-arg]
    to_torch(tx.init(params), params, afresh=("ema",))  # type: ignore[call-arg]
    to_torch(tx.init(params), params, tx=1)  # type: ignore[arg-type]
    to_torch(tx.init(params), params, amsgrad=True)  # type: ignore[arg-type]
