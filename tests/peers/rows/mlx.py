"""Rows of `mlx.optimizers.AdamW`."""

from typing import Any

from tests.peers.rows.row import DECAYING, NORM, STAIRS, WAVE, Row


def mlx() -> dict[str, Row]:
    base = {
        "learning_rate": 0.02,
        "betas": [0.8, 0.95],
        "eps": 1e-6,
        "weight_decay": 0.1,
    }
    groups = {
        "*/bias": {"learning_rate": 0.05, "weight_decay": 0.0, "betas": [0.5, 0.9]},
        "b/*": {"learning_rate": 0.01, "bias_correction": True},
    }

    def row(dtype: str = "float32", **kwargs: Any) -> Row:
        outside = kwargs.pop("outside", {})
        return Row("AdamW", kwargs, dtype, outside=outside)

    corrected = {**base, "bias_correction": True}
    return {
        "default": row(learning_rate=0.001),
        "betas": row(**base),
        "beta1_zero": row(learning_rate=0.02, betas=[0.0, 0.9]),
        "large_eps": row(**{**base, "eps": 0.05}),
        "no_decay": row(**{**base, "weight_decay": 0.0}),
        "large_decay": row(**{**base, "weight_decay": 5.0}),
        "bias_correction": row(**corrected),
        "bias_correction_default_betas": row(learning_rate=0.02, bias_correction=True),
        "bias_correction_large_eps": row(**{**corrected, "eps": 0.05}),
        "schedule": row(**{**base, "learning_rate": DECAYING}),
        "schedule_cosine": row(**{**base, "learning_rate": WAVE}),
        "schedule_stairs": row(**{**corrected, "learning_rate": STAIRS}),
        "clip_grad_norm": row(**base, outside={"clip_grad_norm": NORM}),
        "clip_grad_norm_corrected": row(
            **{**corrected, "learning_rate": WAVE}, outside={"clip_grad_norm": NORM}
        ),
        "multi_optimizer": row(**base, outside={"groups": groups}),
        "bfloat16": row("bfloat16", **base),
        "bfloat16_corrected": row("bfloat16", **corrected),
        "bfloat16_float32_gradients": row(
            "bfloat16", **base, outside={"gradients": "float32"}
        ),
    }
