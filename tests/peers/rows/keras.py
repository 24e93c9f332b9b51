"""Rows of Keras: version 3, and what its second version shares with it."""

from typing import Any

from tests.peers.rows.row import (
    DECAYING,
    INFINITE,
    LEAF,
    NORM,
    STAIRS,
    VALUE,
    WAVE,
    Row,
)
from tests.peers.values import ZeroArgument


def keras() -> dict[str, Row]:
    base = {"learning_rate": 0.02, "weight_decay": 0.1, "beta_1": 0.8, "beta_2": 0.95}
    maximum = {**base, "beta_1": 0.9, "beta_2": 0.5, "amsgrad": True}
    average = {"use_ema": True, "ema_momentum": 0.9}

    def row(dtype: str = "float32", calls: int = 50, **kwargs: Any) -> Row:
        outside = kwargs.pop("outside", {})
        return Row("AdamW", kwargs, dtype, calls, outside)

    scale = {"initial_scale": 1024.0, "dynamic_growth_steps": 4}
    scaled = {"loss_scale": scale, "infinite_at": INFINITE}
    return {
        "default": row(),
        "betas": row(**base),
        "beta_1_zero": row(learning_rate=0.02, beta_1=0.0, beta_2=0.9),
        "large_epsilon": row(**base, epsilon=0.05),
        "no_decay": row(learning_rate=0.02, weight_decay=0.0),
        "large_decay": row(learning_rate=0.02, weight_decay=5.0),
        "amsgrad": row(**maximum),
        "clipnorm": row(**base, clipnorm=LEAF),
        "clipvalue": row(**base, clipvalue=VALUE),
        "global_clipnorm": row(**base, global_clipnorm=NORM),
        "ema_default_momentum": row(**base, use_ema=True, outside={"finalize": True}),
        "ema": row(**base, **average, outside={"finalize": True}),
        "ema_overwrite": row(
            **base, **average, ema_overwrite_frequency=3, outside={"finalize": True}
        ),
        "loss_scale_factor": row(
            **base, loss_scale_factor=1024.0, outside={"scaled_by": 1024.0}
        ),
        "loss_scale_factor_unscaled": row(**base, epsilon=1e-3, loss_scale_factor=8.0),
        "loss_scale_factor_clip": row(
            **base, loss_scale_factor=8.0, clipvalue=VALUE, outside={"scaled_by": 8.0}
        ),
        "accumulation": row(calls=60, **base, gradient_accumulation_steps=2),
        "accumulation_unfinished": row(**base, gradient_accumulation_steps=4),
        "accumulation_clip": row(
            calls=60, **maximum, global_clipnorm=NORM, gradient_accumulation_steps=4
        ),
        "accumulation_ema": row(
            calls=60,
            **base,
            **average,
            gradient_accumulation_steps=3,
            outside={"finalize": True},
        ),
        "accumulation_ema_overwrite": row(
            calls=60,
            **base,
            **average,
            ema_overwrite_frequency=2,
            gradient_accumulation_steps=3,
            outside={"finalize": True},
        ),
        "schedule": row(**{**base, "learning_rate": DECAYING}),
        "schedule_cosine": row(**{**base, "learning_rate": WAVE}),
        "schedule_stairs": row(**{**base, "learning_rate": STAIRS}),
        "schedule_accumulation": row(
            calls=60,
            **{**base, "learning_rate": DECAYING},
            gradient_accumulation_steps=2,
        ),
        "callable_rate": row(**{**base, "learning_rate": ZeroArgument(0.02)}),
        "exclude_bias": row(**base, outside={"exclude": ("bias",)}),
        "exclude_two": row(**base, outside={"exclude": ("^kern", "temperature")}),
        "loss_scale_optimizer": row(**base, outside=scaled),
        "loss_scale_optimizer_accumulation": row(
            calls=60, **base, gradient_accumulation_steps=2, outside=scaled
        ),
        "loss_scale_optimizer_ema": row(
            **maximum,
            **average,
            ema_overwrite_frequency=3,
            outside={**scaled, "finalize": True},
        ),
        "missing_gradient": row(
            **base, outside={"absent": {"a/bias": (5, 9), "b/kernel": (30, 31)}}
        ),
        "bfloat16": row("bfloat16", **{**base, "beta_2": 0.9}),
        "bfloat16_default_betas": row("bfloat16", learning_rate=0.02),
        "everything": row(
            calls=60,
            **{**maximum, "learning_rate": WAVE},
            epsilon=1e-3,
            global_clipnorm=NORM,
            **average,
            ema_overwrite_frequency=5,
            loss_scale_factor=64.0,
            gradient_accumulation_steps=2,
            outside={"scaled_by": 64.0, "exclude": ("bias",), "finalize": True},
        ),
    }


def tf_keras() -> dict[str, Row]:
    """The rows of Keras that its second version understands, and its own."""
    base = {"learning_rate": 0.02, "weight_decay": 0.1, "beta_1": 0.8, "beta_2": 0.95}
    shared = (
        "default betas beta_1_zero large_epsilon no_decay large_decay amsgrad clipnorm "
        "clipvalue global_clipnorm ema_default_momentum ema ema_overwrite schedule "
        "schedule_cosine schedule_stairs callable_rate loss_scale_optimizer "
        "loss_scale_optimizer_ema bfloat16"
    )
    rows = {name: row for name, row in keras().items() if name in shared.split()}
    return {
        **rows,
        "no_jit": Row("AdamW", {**base, "jit_compile": False}),
        "exclude_bias": Row("AdamW", base, outside={"exclude": ("bias",)}),
        "exclude_by_path": Row("AdamW", base, outside={"exclude": ("^b/", "scale")}),
        "everything": Row(
            "AdamW",
            {
                **base,
                "learning_rate": WAVE,
                "beta_2": 0.5,
                "amsgrad": True,
                "epsilon": 1e-3,
                "global_clipnorm": NORM,
                "use_ema": True,
                "ema_momentum": 0.9,
                "ema_overwrite_frequency": 5,
            },
            outside={"exclude": ("bias",), "finalize": True},
        ),
    }
