"""Rows of timm's `AdamWLegacy` and `NAdamW`."""

from tests.peers.rows.row import NORM, Row
from tests.peers.values import Exponential


def timm() -> dict[str, Row]:
    base = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    maximum = {**base, "betas": (0.9, 0.5), "amsgrad": True}
    falling = {"lambda_lr": Exponential(1.0, 10, 0.6)}
    groups = {
        "*/bias": {"weight_decay": 0.0},
        "b/*": {"lr": 0.05, "betas": (0.5, 0.9), "eps": 1e-3},
    }
    rows = {
        "default": Row("AdamWLegacy", {}),
        "nadamw_default": Row("NAdamW", {}),
        "no_decay": Row("AdamWLegacy", {**base, "weight_decay": 0.0}),
        "large_decay": Row("NAdamW", {**base, "weight_decay": 5.0}),
        "large_eps": Row("AdamWLegacy", {**base, "eps": 0.05}),
        "nadamw_large_eps": Row("NAdamW", {**base, "eps": 0.05}),
        "groups": Row("AdamWLegacy", base, outside={"groups": groups}),
        "nadamw_groups": Row(
            "NAdamW",
            {**base, "corrected_weight_decay": True},
            outside={"groups": groups, **falling},
        ),
        "clip_grad_norm": Row("NAdamW", base, outside={"clip_grad_norm": NORM}),
        "late_gradient": Row(
            "NAdamW", {**base, "foreach": False}, outside={"absent": {"scale": (0, 10)}}
        ),
    }
    for loop in (False, True):
        suffix = "foreach" if loop else "single"
        options = {
            "": {},
            "caution_": {"caution": True},
            "maximize_": {"maximize": True},
            "corrected_": {"corrected_weight_decay": True},
            "caution_corrected_maximize_": {
                "caution": True,
                "corrected_weight_decay": True,
                "maximize": True,
            },
        }
        for name, option in options.items():
            outside = falling if "corrected" in name else {}
            for function, short in (("AdamWLegacy", "adamw"), ("NAdamW", "nadamw")):
                rows[f"{short}_{name}{suffix}"] = Row(
                    function, {**base, **option, "foreach": loop}, outside=outside
                )
        clipped = {**base, "clipping_threshold": 0.5, "foreach": loop}
        rows[f"adamw_clipped_{suffix}"] = Row("AdamWLegacy", clipped)
        rows[f"nadamw_clipped_{suffix}"] = Row(
            "NAdamW",
            {**clipped, "caution": True, "corrected_weight_decay": True},
            outside={
                "groups": {
                    "*/bias": {"clipping_threshold": None},
                    "b/*": {"clipping_threshold": 0.2, "weight_decay": 0.3},
                },
                **falling,
            },
        )
        rows[f"amsgrad_{suffix}"] = Row("AdamWLegacy", {**maximum, "foreach": loop})
        rows[f"amsgrad_caution_{suffix}"] = Row(
            "AdamWLegacy",
            {**maximum, "caution": True, "foreach": loop},
            outside={"clip_grad_norm": NORM},
        )
    return rows
