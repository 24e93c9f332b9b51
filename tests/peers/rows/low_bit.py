"""Rows of bitsandbytes and torchao, on leaves too small to be quantised."""

from typing import Any

from tests.peers.rows.row import NORM, Row
from tests.peers.values import Exponential


def bitsandbytes() -> dict[str, Row]:
    """The CPU kernel, which decays before the step."""
    base = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    groups = {"*/bias": {"weight_decay": 0.0}, "b/*": {"lr": 0.05, "eps": 1e-3}}

    def row(function: str = "AdamW", **kwargs: Any) -> Row:
        outside = kwargs.pop("outside", {})
        return Row(function, kwargs, outside=outside)

    return {
        "default": row(),
        "betas": row(**base),
        "betas_as_text": row(**{**base, "betas": "(0.8, 0.95)"}),
        "beta1_zero": row(lr=0.02, betas=(0.0, 0.99)),
        "large_eps": row(**{**base, "eps": 0.05}),
        "no_decay": row(**{**base, "weight_decay": 0.0}),
        "large_decay": row(**{**base, "weight_decay": 5.0}),
        "amsgrad_ignored": row(**{**base, "betas": (0.9, 0.5)}, amsgrad=True),
        "adamw32bit": row("AdamW32bit", **base),
        "adam_decays_too": row("Adam", **base),
        "adamw8bit_small_leaves": row("AdamW8bit", **base),
        "groups": row(**base, outside={"groups": groups}),
        "scheduled": row(**base, outside={"lambda_lr": Exponential(1.0, 10, 0.5)}),
        "clip_grad_norm": row(**base, outside={"clip_grad_norm": NORM}),
        "late_gradient": row(**base, outside={"absent": {"scale": (0, 10)}}),
    }


def bitsandbytes_cuda() -> dict[str, Row]:
    """The CUDA kernel, which decays after the step: a transcription only."""
    rows = bitsandbytes()
    # The same configurations, but for those that only name another class.
    kept = [name for name in rows if not name.startswith(("adamw", "betas_as"))]
    return {name: rows[name] for name in kept}


def torchao() -> dict[str, Row]:
    """Leaves below 4096 elements are not quantised: all arithmetic is float32's."""
    base = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    maximum = {**base, "betas": (0.9, 0.5), "amsgrad": True}
    groups = {"*/bias": {"weight_decay": 0.0}, "b/*": {"betas": (0.5, 0.9)}}
    return {
        "default": Row("_AdamW", {}),
        "betas": Row("_AdamW", base),
        "beta1_zero": Row("_AdamW", {"lr": 0.02, "betas": (0.0, 0.99)}),
        "large_eps": Row("_AdamW", {**base, "eps": 0.05}),
        "no_decay": Row("_AdamW", {**base, "weight_decay": 0.0}),
        "large_decay": Row("_AdamW", {**base, "weight_decay": 5.0}),
        "amsgrad": Row("_AdamW", maximum),
        "groups": Row("_AdamW", base, outside={"groups": groups}),
        "clip_grad_norm": Row("_AdamW", base, outside={"clip_grad_norm": NORM}),
        "adamw8bit_small_leaves": Row("AdamW8bit", base),
        "adamw4bit_small_leaves": Row("AdamW4bit", maximum),
        "adamwfp8_small_leaves": Row("AdamWFp8", base),
        "bfloat16": Row("_AdamW", base, "bfloat16"),
    }
