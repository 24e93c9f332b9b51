"""The names of the variables in which Keras and tf.keras keep an optimizer."""

import re

SUFFIXES = {
    "gradient_accumulator": "accumulator",
    "velocity_hat": "nu_max",
    "average": "ema",
    "momentum": "mu",
    "velocity": "nu",
}
"""The ends of variables' names in Keras 3, as in "adam_w/dense_kernel_momentum"."""

SLOTS = {"average": "ema", "m": "mu", "v": "nu", "vhat": "nu_max"}
"""The parts before the parameter's name in tf.keras: "AdamW/m/dense/kernel:0"."""


OTHERS = {
    "sgd": "SGD",
    "rmsprop": "RMSprop",
    "adadelta": "Adadelta",
    "adagrad": "Adagrad",
    "adamax": "Adamax",
    "adafactor": "Adafactor",
    "nadam": "Nadam",
    "ftrl": "Ftrl",
    "lion": "Lion",
    "lamb": "Lamb",
    "muon": "Muon",
    "schedule_free_adam_w": "ScheduleFreeAdamW",
}
"""Keras's other optimizers, by the names that they give to their variables:
"lamb_1/dense_kernel_momentum". Some have the variables of AdamW for other numbers."""


def told_apart(name: str) -> tuple[str | None, str]:
    """Return the field that a variable of this name holds, and the parameter's name."""
    parts = name.removesuffix(":0").split("/")
    for suffix, field in SUFFIXES.items():
        if parts[-1].endswith(f"_{suffix}"):
            return field, parts[-1].removesuffix(f"_{suffix}")
    for i, part in enumerate(parts[:2]):
        if part in SLOTS and i + 1 < len(parts):
            return SLOTS[part], "/".join(parts[i + 1 :])
    return None, name


def refuse_other(title: str, name: str) -> None:
    """Refuse a variable of another optimizer, by its own name or the optimizer's.

    "Adam/m/x_norm" is a moment of a parameter called "x_norm".
    """
    owner = re.sub(r"_\d+$", "", name.partition("/")[0])
    is_norm = name.endswith("_norm") and told_apart(name)[0] is None
    if is_norm or owner in OTHERS:
        known = "Adamax" if is_norm else OTHERS[owner]
        raise ValueError(
            f"The saved state has '{name}', as {title}'s {known}. Convert the state of "
            "AdamW or Adam."
        )
