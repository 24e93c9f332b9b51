"""Rows of `tensorflow_addons.optimizers.AdamW`."""

from typing import Any

from tests.peers.rows.row import DECAYING, LEAF, NORM, VALUE, WAVE, Row
from tests.peers.values import Cosine, Exponential, ZeroArgument


def tfa() -> dict[str, Row]:
    base = {"weight_decay": 0.01, "learning_rate": 0.02, "beta_1": 0.8, "beta_2": 0.95}
    maximum = {**base, "beta_1": 0.9, "beta_2": 0.5, "amsgrad": True}

    def row(**kwargs: Any) -> Row:
        outside = kwargs.pop("outside", {})
        return Row("AdamW", kwargs, outside=outside)

    return {
        "default": row(weight_decay=0.004),
        "betas": row(**base),
        "large_epsilon": row(**base, epsilon=0.05),
        "epsilon_zero": row(**base, epsilon=0.0),
        "no_decay": row(**{**base, "weight_decay": 0.0}),
        "large_decay": row(**{**base, "weight_decay": 0.2}),
        "amsgrad": row(**maximum),
        "clipnorm": row(**base, clipnorm=LEAF),
        "clipvalue": row(**base, clipvalue=VALUE),
        "global_clipnorm": row(**base, global_clipnorm=NORM),
        "clipvalue_clipnorm": row(**base, clipvalue=VALUE, clipnorm=1.0),
        "clipvalue_global_clipnorm": row(**base, clipvalue=VALUE, global_clipnorm=2.0),
        "schedule": row(**{**base, "learning_rate": DECAYING}),
        "schedule_decay": row(
            **{**base, "weight_decay": Exponential(0.05, 10, 0.5)},
        ),
        "schedule_both": row(
            **{**base, "learning_rate": WAVE, "weight_decay": Cosine(0.02, 35, 0.1)}
        ),
        "callable_rate": row(**{**base, "learning_rate": ZeroArgument(0.02)}),
        "callable_decay": row(**{**base, "weight_decay": ZeroArgument(0.02)}),
        "inverse_time_decay": row(**base, decay=0.1),
        "exclude_bias": row(**base, exclude_from_weight_decay=["bias"]),
        "exclude_by_path": row(**base, exclude_from_weight_decay=["^b/", "scale"]),
        "decay_list": row(**base, outside={"decay_var_list": ("*/kernel",)}),
        "decay_list_wins": row(
            **base,
            exclude_from_weight_decay=["kernel"],
            outside={"decay_var_list": ("a/*",)},
        ),
        "everything": row(
            **{**maximum, "learning_rate": WAVE, "weight_decay": Cosine(0.02, 35, 0.1)},
            epsilon=1e-3,
            clipvalue=VALUE,
            global_clipnorm=2.0,
            decay=0.05,
            exclude_from_weight_decay=["bias"],
        ),
    }
