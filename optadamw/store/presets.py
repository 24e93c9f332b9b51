"""The presets of `adamw(..., precision=)`: one word for the format of each buffer."""

from typing import Any, Literal

from optadamw.base.errors import invalid, mistyped
from optadamw.store.formats import blockwise, stochastic

Precision = Literal["full", "mixed", "compact"]

PRESETS: dict[str, dict[str, Any]] = {
    "full": {},
    "mixed": {"commit": "master"},
    "compact": {
        "commit": "stochastic",
        "mu_dtype": blockwise(),
        "nu_dtype": blockwise(),
        "ema_dtype": stochastic("bfloat16"),
    },
}
"""The arguments of `adamw` that each word stands for."""


def forms(precision: Any, **given: Any) -> dict[str, Any]:
    """Return the arguments of a preset; an argument that is not None replaces its own.

    Raises:
      TypeError, ValueError: `precision` is no preset.
    """
    legal = f"one of {', '.join(map(repr, PRESETS))}, or None"
    if precision is not None and not isinstance(precision, str):
        raise mistyped("precision", legal, precision)
    if precision is not None and precision not in PRESETS:
        raise invalid("precision", legal, precision)
    preset = PRESETS["full" if precision is None else precision]
    return {
        name: preset.get(name) if value is None else value
        for name, value in given.items()
    }
