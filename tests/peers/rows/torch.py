"""Rows of `torch.optim.AdamW`."""

from typing import Any

from tests.peers.rows.row import INFINITE, NORM, VALUE, Row
from tests.peers.values import Cosine, Exponential, Tensor


def torch() -> dict[str, Row]:
    base = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    maximum = {**base, "betas": (0.9, 0.5), "amsgrad": True}

    def row(dtype: str = "float32", calls: int = 50, **kwargs: Any) -> Row:
        outside = kwargs.pop("outside", {})
        return Row("AdamW", kwargs, dtype, calls, outside)

    groups = {
        "*/bias": {"lr": 0.05, "weight_decay": 0.0},
        "b/*": {"betas": (0.5, 0.9), "eps": 1e-3},
        "temperature": {"weight_decay": 2.0},
    }
    scaler = {"init_scale": 1024.0, "growth_interval": 4, "growth_factor": 4.0}
    scaled = {"grad_scaler": scaler, "infinite_at": INFINITE}
    return {
        "default": row(),
        "single": row(**base, foreach=False),
        "foreach": row(**base, foreach=True),
        "fused": row(**base, fused=True),
        "betas": row(lr=0.02, betas=(0.5, 0.9)),
        "beta1_zero": row(lr=0.02, betas=(0.0, 0.99)),
        "large_eps": row(lr=0.02, eps=0.05),
        "no_decay": row(lr=0.02, weight_decay=0.0),
        "large_decay": row(lr=0.02, weight_decay=5.0),
        "amsgrad_single": row(**maximum, foreach=False),
        "amsgrad_foreach": row(**maximum, foreach=True),
        "amsgrad_fused": row(**maximum, fused=True),
        "maximize": row(**base, maximize=True),
        "maximize_foreach": row(**base, maximize=True, foreach=True),
        "maximize_fused": row(**maximum, maximize=True, fused=True),
        "differentiable": row(**base, differentiable=True),
        "tensor_lr": row(lr=Tensor(0.02), weight_decay=0.1),
        "tensor_lr_of_one": row(lr=Tensor(0.02, (1,)), weight_decay=0.1),
        "tensor_lr_fused": row(lr=Tensor(0.02), weight_decay=0.1, fused=True),
        "tensor_betas": row(
            lr=Tensor(0.02), betas=(Tensor(0.8), Tensor(0.95)), weight_decay=0.1
        ),
        "groups": row(**base, outside={"groups": groups}),
        "groups_foreach": row(**base, foreach=True, outside={"groups": groups}),
        "groups_fused": row(**base, fused=True, outside={"groups": groups}),
        "scheduled": row(**base, outside={"lambda_lr": Exponential(1.0, 10, 0.5)}),
        "scheduled_groups": row(
            **base, outside={"lambda_lr": Cosine(1.0, 35, 0.1), "groups": groups}
        ),
        "clip_grad_norm": row(**base, outside={"clip_grad_norm": NORM}),
        "clip_grad_norm_foreach": row(
            **base, foreach=True, outside={"clip_grad_norm": NORM}
        ),
        "clip_grad_value": row(**base, outside={"clip_grad_value": VALUE}),
        "accumulation": row(
            calls=60, **base, outside={"accumulation": 4, "clip_grad_norm": NORM}
        ),
        "grad_scaler": row(**base, outside=scaled),
        "grad_scaler_fused": row(**base, fused=True, outside=scaled),
        "grad_scaler_clip": row(**base, outside={**scaled, "clip_grad_norm": NORM}),
        "average": row(**base, outside={"average": 0.9}),
        "late_gradient": row(**base, outside={"absent": {"scale": (0, 10)}}),
        "missing_gradient": row(
            **maximum, outside={"absent": {"a/bias": (5, 9), "b/kernel": (30, 31)}}
        ),
        "complex": row("complex64", **base),
        "complex_amsgrad": row("complex64", **maximum, maximize=True),
        "bfloat16_single": row("bfloat16", **base, foreach=False),
        "bfloat16_foreach": row("bfloat16", **base, foreach=True),
        "bfloat16_fused": row("bfloat16", **base, fused=True),
        "bfloat16_amsgrad": row("bfloat16", **maximum, foreach=False),
        "bfloat16_amsgrad_fused": row("bfloat16", **maximum, fused=True),
        "everything": row(
            calls=60,
            **maximum,
            maximize=True,
            fused=True,
            outside={
                "groups": groups,
                "lambda_lr": Exponential(1.0, 10, 0.5),
                "clip_grad_norm": NORM,
                "accumulation": 3,
                "average": 0.95,
            },
        ),
    }
