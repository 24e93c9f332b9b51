"""Rows of `optimi.AdamW`."""

from typing import Any

from tests.peers.rows.row import NORM, Row
from tests.peers.values import Exponential


def optimi() -> dict[str, Row]:
    base = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1}
    decoupled = {**base, "weight_decay": 0.005, "decouple_lr": True}
    falling = {"lambda_lr": Exponential(1.0, 10, 0.6)}
    groups = {
        "*/bias": {"weight_decay": 0.0},
        # optimi splits the betas when it is made: in a group `betas` says nothing.
        "b/*": {"lr": 0.05, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3},
    }

    def row(dtype: str = "float32", **kwargs: Any) -> Row:
        outside = kwargs.pop("outside", {})
        return Row("AdamW", kwargs, dtype, outside=outside)

    return {
        "default": row(lr=0.001),
        "betas": row(**base),
        "single": row(**base, foreach=False),
        "foreach": row(**base, foreach=True),
        "large_eps": row(**{**base, "eps": 0.05}),
        "no_decay": row(**{**base, "weight_decay": 0.0}),
        "large_decay": row(**{**base, "weight_decay": 5.0}),
        "decoupled": row(**decoupled),
        "decoupled_scheduled": row(**decoupled, outside=falling),
        "decoupled_max_lr": row(**decoupled, max_lr=0.1),
        "decoupled_max_lr_scheduled": row(**decoupled, max_lr=0.1, outside=falling),
        "scheduled": row(**base, outside=falling),
        "groups": row(**base, outside={"groups": groups}),
        "clip_grad_norm": row(**base, outside={"clip_grad_norm": NORM}),
        "late_gradient": row(**base, outside={"absent": {"scale": (0, 10)}}),
        "bfloat16": row("bfloat16", **base, kahan_sum=False),
        "bfloat16_kahan": row("bfloat16", **base, kahan_sum=True),
        "bfloat16_kahan_foreach": row("bfloat16", **base, kahan_sum=True, foreach=True),
    }
