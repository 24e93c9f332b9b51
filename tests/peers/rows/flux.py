"""Rows of `Optimisers.AdamW`, in ASCII keyword names."""

from typing import Any

from tests.peers.rows.row import LEAF, STAIRS, VALUE, Row


def flux() -> dict[str, Row]:
    """Optimisers.jl, in ASCII keyword names; `chain` holds its own rules."""
    base = {"eta": 0.02, "beta": (0.8, 0.95), "epsilon": 1e-6}
    decay = {**base, "lambda": 0.1}

    def row(calls: int = 50, **kwargs: Any) -> Row:
        outside = kwargs.pop("outside", {})
        return Row("AdamW", kwargs, calls=calls, outside=outside)

    return {
        "default": row(),
        "betas": row(**base),
        "decay": row(**decay),
        "large_decay": row(**{**decay, "lambda": 5.0}),
        "uncoupled": row(**{**decay, "lambda": 0.01}, couple=False),
        "uncoupled_large": row(**{**decay, "lambda": 0.2}, couple=False),
        "beta1_zero": row(**{**decay, "beta": (0.0, 0.99)}),
        "large_epsilon": row(**{**decay, "epsilon": 0.05}),
        "clip_grad": row(**decay, outside={"chain": (("ClipGrad", VALUE),)}),
        "clip_norm": row(**decay, outside={"chain": (("ClipNorm", LEAF),)}),
        "accumulation": row(60, **decay, outside={"chain": (("AccumGrad", 4),)}),
        "accumulation_clip": row(
            60, **decay, outside={"chain": (("AccumGrad", 3), ("ClipNorm", LEAF))}
        ),
        "adjusted": row(**decay, outside={"adjust": STAIRS}),
        "adjusted_uncoupled": row(
            **{**decay, "lambda": 0.01}, couple=False, outside={"adjust": STAIRS}
        ),
    }
