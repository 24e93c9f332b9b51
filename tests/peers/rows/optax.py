"""Rows of Optax: its functions, and the wrappers people put around them."""

from collections.abc import Mapping
from typing import Any

from tests.peers.rows.row import DECAYING, INFINITE, NORM, STAIRS, VALUE, WAVE, Row
from tests.peers.values import Cosine, Decayed, Exponential


def optax() -> dict[str, Row]:
    base = {"learning_rate": 0.02, "b1": 0.8, "b2": 0.95, "weight_decay": 0.1}
    maximum = {"learning_rate": 0.02, "b1": 0.9, "b2": 0.5}

    def row(
        function: str = "adamw", dtype: str = "float32", calls: int = 50, **kwargs: Any
    ) -> Row:
        outside = kwargs.pop("outside", {})
        return Row(function, kwargs, dtype, calls, outside)

    def after(*chain: tuple[Any, ...]) -> Row:
        return row(**base, outside={"chain": chain})

    def steps(k: int, **wrapped: Any) -> Mapping[str, Any]:
        return {"every_k_schedule": k, **wrapped}

    norm = ("clip_by_global_norm", NORM)
    return {
        "default": row(learning_rate=0.001),
        "betas": row(**base),
        "b1_zero": row(learning_rate=0.02, b1=0.0, b2=0.9),
        "large_eps": row(**base, eps=0.05),
        "eps_root": row(**base, eps=1e-3, eps_root=0.01),
        "no_decay": row(**{**base, "weight_decay": 0.0}),
        "large_decay": row(**{**base, "weight_decay": 5.0}),
        "mask": row(**base, mask=Decayed(("*/bias", "temperature"))),
        "nadamw": row("nadamw", **base),
        "nesterov": row(**base, nesterov=True, eps_root=1e-3),
        "nadamw_mask": row("nadamw", **base, mask=Decayed(("*/bias",))),
        "mu_dtype": row(**base, mu_dtype="bfloat16"),
        "bfloat16": row(dtype="bfloat16", **base),
        "bfloat16_mu_float32": row(dtype="bfloat16", **base, mu_dtype="float32"),
        "bfloat16_nadamw": row("nadamw", dtype="bfloat16", **base),
        "schedule": row(**{**base, "learning_rate": DECAYING}),
        "schedule_cosine": row(**{**base, "learning_rate": WAVE}),
        "schedule_decay": row(**{**base, "weight_decay": Exponential(0.5, 10, 0.5)}),
        "schedule_both": row(
            **{**base, "learning_rate": STAIRS, "weight_decay": Cosine(1.0, 35, 0.1)},
            mask=Decayed(("*/bias",)),
        ),
        "clip": after(("clip", VALUE)),
        "clip_by_global_norm": after(norm),
        "clip_by_block_rms": after(("clip_by_block_rms", 0.8)),
        "adaptive_grad_clip": after(("adaptive_grad_clip", 0.3)),
        "clip_both": after(("clip", VALUE), ("clip_by_global_norm", 2.0)),
        "multi_steps": row(calls=60, **base, outside={"multi_steps": steps(4)}),
        "multi_steps_sum": row(
            calls=60,
            **base,
            eps=0.05,
            outside={"multi_steps": steps(3, use_grad_mean=False)},
        ),
        "multi_steps_unfinished": row(**base, outside={"multi_steps": steps(7)}),
        "multi_steps_schedule": row(
            calls=60,
            **{**base, "learning_rate": DECAYING},
            outside={"multi_steps": steps(3)},
        ),
        "multi_steps_clip": row(
            calls=60, **base, outside={"multi_steps": steps(4), "chain": (norm,)}
        ),
        "apply_if_finite": row(
            **base, outside={"apply_if_finite": 5, "infinite_at": INFINITE}
        ),
        "inject_hyperparams": row(**base, outside={"inject_hyperparams": True}),
        "amsgrad": row("amsgrad", **maximum),
        "amsgrad_uncorrected_mu": row("amsgrad", **maximum, bias_correction_mu=False),
        "amsgrad_uncorrected_nu": row(
            "amsgrad", **maximum, eps_root=1e-3, bias_correction_nu=False
        ),
        "amsgrad_with_decay": row(
            "scale_by_amsgrad",
            b1=0.9,
            b2=0.5,
            eps=1e-3,
            outside={"decay": {"weight_decay": 0.1, "learning_rate": 0.02}},
        ),
        "everything": row(
            "nadamw",
            calls=60,
            **{**base, "learning_rate": WAVE, "weight_decay": Cosine(1.0, 12, 0.1)},
            eps=1e-3,
            eps_root=1e-4,
            mu_dtype="bfloat16",
            mask=Decayed(("*/bias", "scale")),
            outside={"multi_steps": steps(4), "chain": (("clip", 5.0), norm)},
        ),
    }
