"""Rows of Algorithm 2 of the paper, and of its authors' Lua."""

from typing import Any

from tests.peers.rows.row import Row
from tests.peers.values import Cosine, PiecewiseTable


def paper() -> dict[str, Row]:
    """Algorithm 2 as printed, and the authors' Lua, which is another optimizer."""
    base = {"alpha": 0.02, "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6}
    decay = {**base, "weight_decay": 0.01}
    normalised = {"batch_size": 128, "points": 50_000, "epochs": 100}
    restarts = {"first": 10, "mult": 2, "eta_min": 0.0, "eta_max": 1.0}

    def row(function: str = "algorithm_2", **kwargs: Any) -> Row:
        return Row(function, kwargs)

    def lua(**kwargs: Any) -> Row:
        return row("lua", **kwargs)

    return {
        "no_decay": row(**base, weight_decay=0.0),
        "constant": row(**decay),
        "default": row(weight_decay=0.01),
        "large_decay": row(**{**decay, "weight_decay": 0.2}),
        "large_epsilon": row(**{**decay, "epsilon": 0.05}),
        "scheduled": row(**decay, eta=Cosine(1.0, 50)),
        "scheduled_stairs": row(**decay, eta=PiecewiseTable((20, 35), (1.0, 0.3, 0.1))),
        "normalised": row(**base, weight_decay_norm=0.05, **normalised),
        "normalised_scheduled": row(
            **base, weight_decay_norm=0.05, **normalised, eta=Cosine(1.0, 50)
        ),
        "restarts": row(**decay, restarts=restarts),
        "lua": lua(**decay),
        "lua_scheduled": lua(**decay, eta=Cosine(1.0, 50)),
        "lua_large_epsilon": lua(**{**decay, "epsilon": 0.05}),
        "lua_large_decay": lua(**{**decay, "weight_decay": 0.2}),
    }
