"""What the numbers of a State mean, as the transformation that made them says.

Two transformations may keep a buffer of one name and shape and mean other numbers by
it: AMSGrad's maximum of the raw or the corrected moment, the mean of gradients or of
negated ones. What must agree is written down here, by the field that it is about.
"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.checkpoint.record import Meaning
from optadamw.control.accumulation import Accumulation
from optadamw.control.events import EVENTS
from optadamw.control.loss_scale import DynamicLossScale, StaticLossScale
from optadamw.controls import Control
from optadamw.hyperparameters import Clock
from optadamw.rule import Rule
from optadamw.rules.amsgrad import Maximum
from optadamw.rules.maximize import Maximize
from optadamw.store import Dense
from optadamw.transformation import Transformation

SIGN = {
    False: "the mean of the gradients",
    True: "the mean of the negated gradients (maximize)",
}


def meaning_of(tx: Transformation, step: int) -> Meaning:
    """What the fields of the State of `tx` mean at `step`; JSON."""
    composition = tx.recipe.composition
    rules, control = composition.rules, composition.control
    slots = {slot.name for slot in composition.slots}
    meaning: dict[str, Any] = {"rules": _lines(rules, control), "events": list(EVENTS)}
    if "mu" in slots:
        meaning["mu"] = SIGN[any(isinstance(rule, Maximize) for rule in rules)]
    for rule in rules:
        if isinstance(rule, Maximum):
            meaning["nu_max"] = f"the maximum of the {rule.kind} second moments"
    if control.accumulation is not None:
        meaning["window"] = _window(control.accumulation, step)
        if control.watch is not None:
            policy = "left out" if control.watch.drops else "the end of its window"
            meaning["window"]["bad"] = policy
    if control.loss_scale is not None:
        meaning["loss_scale"] = _scale(control.loss_scale)
    if control.spikes is not None:
        of, window = list(control.spikes.of), control.spikes.window
        meaning["history"] = f"the last {window} values of {', '.join(of)}"
        if control.accumulation is not None and "grad_norm" in of:
            drops = control.watch is not None and control.watch.drops
            unit = "micro-batches" if drops else "windows"
            meaning["history"] += f", norms of {unit}"
    if control.statistics is not None:
        groups = [name for name, _ in control.statistics.groups]
        meaning["stats"] = f"norms={control.statistics.norms}, groups={groups}"
    return meaning


def _scale(scale: StaticLossScale | DynamicLossScale) -> dict[str, Any]:
    if isinstance(scale, DynamicLossScale):
        bounds = {"minimum": float(scale.minimum), "maximum": float(scale.maximum)}
        return {"kind": "dynamic", **bounds}
    return {"kind": "static", "scale": float(jax.device_get(scale.initial()))}


def _window(accumulation: Accumulation, step: int) -> dict[str, Any]:
    # The number at this step, not the schedule: two schedules that agree on the
    # window that is open agree on what is in it.
    wide = jnp.dtype(jax.dtypes.canonicalize_dtype(np.float64))
    clock = Clock(step=jnp.int32(step), number=jnp.int32(step + 1), dtype=wide)
    return {
        "every": int(accumulation.due(clock)),
        "kind": "mean" if accumulation.use_grad_mean else "sum",
    }


def _lines(rules: tuple[Rule, ...], control: Control) -> list[str]:
    """One line for each part, to be compared and shown; nothing reads them back."""
    lines = [f"{rule.verb}: {_settings(rule)}".rstrip(": ") for rule in rules]
    for field in dataclasses.fields(control):
        part = getattr(control, field.name)
        if part is not None:
            lines.append(f"{field.name}: {_settings(part)}".rstrip(": "))
    return lines


def _settings(part: Any) -> str:
    shown = []
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, Dense):
            value = value.dtype and value.dtype.name
        if value is not None:
            # Without the address of a function, which is another in each process.
            text = re.sub(r" at 0x[0-9a-f]+", "", repr(value))
            shown.append(f"{field.name}={text}")
    return ", ".join(shown)
