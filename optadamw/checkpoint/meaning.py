"""The meaning of the numbers in a State, as a record that a checkpoint holds.

Two transformations may have buffers of one name and shape whose numbers mean different
things: AMSGrad's maximum of the raw or the corrected moment, the mean of gradients or
of negated gradients. For each field the record holds the facts that must agree.
"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp

from optadamw.base.hyperparameters import Clock
from optadamw.checkpoint.kinds import kinds_by_group
from optadamw.checkpoint.record import Meaning, without_addresses
from optadamw.control.accumulation import Accumulation
from optadamw.control.counters import EVENTS
from optadamw.control.loss_scale import DynamicLossScale, StaticLossScale
from optadamw.store.blockwise import BlockStorage
from optadamw.store.dense import Dense
from optadamw.store.formats import as_written
from optadamw.store.state import is_custom
from optadamw.transforms.transformation import Transformation
from optadamw.walk.composition import Composition

TAKEN = ("rules", "blocks", "window")
"""The settings that are no fields, after which a user may have named a buffer."""


def key_of(field: str) -> str:
    """Return the key of a field's meaning."""
    return f"buffer {field}" if field in TAKEN else field


def meaning_of(tx: Transformation, step: int) -> Meaning:
    """Return the meaning of the fields of the State of `tx` at `step`, as JSON."""
    composition = tx.recipe.composition
    control = composition.control
    guard = control.effective_guard
    slots = {slot.name for slot in composition.slots}
    meaning: dict[str, Any] = {"rules": _lines(composition), "events": list(EVENTS)}
    meaning |= kinds_by_group(composition)
    if "residual" in slots:
        meaning["residual"] = f"what {composition.commit.keeps} keeps"
    for rule in composition.rules:
        for slot in rule.slots:
            # The average of ema_params has no entry: earlier files have none.
            is_other = slot.name == "ema" and rule.verb != "ema_params"
            if is_custom(slot.name) or is_other:
                meaning[key_of(slot.name)] = f"a buffer of {rule.verb}"
    blocks = {
        slot.name: slot.store.how.axis
        for slot in composition.slots
        if isinstance(slot.store, BlockStorage)
    }
    if blocks:
        # The axis that was asked for; None: each leaf's own, which follows from the
        # shape of its scales.
        meaning["blocks"] = blocks
    if control.accumulation is not None:
        meaning["window"] = _window(control.accumulation, step)
        if guard is not None:
            policy = "left out" if guard.drops else "the end of its window"
            meaning["window"]["bad"] = policy
    if control.loss_scale is not None:
        meaning["loss_scale"] = _scale(control.loss_scale)
    if control.spikes is not None:
        of, window = list(control.spikes.of), control.spikes.window
        meaning["history"] = f"the last {window} values of {', '.join(of)}"
        if control.accumulation is not None and "grad_norm" in of:
            drops = guard is not None and guard.drops
            unit = "micro-batches" if drops else "windows"
            meaning["history"] += f", norms of {unit}"
    if control.statistics is not None:
        groups = [name for name, _ in control.statistics.groups]
        meaning["stats"] = f"norms={control.statistics.norms}, groups={groups}"
    return without_addresses(meaning)


def _scale(scale: StaticLossScale | DynamicLossScale) -> dict[str, Any]:
    if isinstance(scale, DynamicLossScale):
        bounds = {"minimum": float(scale.minimum), "maximum": float(scale.maximum)}
        return {"kind": "dynamic", **bounds, "counts": scale.counts}
    return {"kind": "static", "scale": float(jax.device_get(scale.initial()))}


def _window(accumulation: Accumulation, step: int) -> dict[str, Any]:
    # The number at this step, not the schedule: only the length of the open window
    # matters for the numbers in it.
    return {
        "every": int(accumulation.due(Clock.at(jnp.int32(step)))),
        "kind": "mean" if accumulation.use_grad_mean else "sum",
    }


def _lines(composition: Composition) -> list[str]:
    """Return one line for each part, to be compared and shown, never parsed."""
    *groups, rest = composition.variants
    lines = [f"{r.verb}: {_settings(r)}".rstrip(": ") for r in rest if r is not None]
    for group, rules in zip(composition.groups, groups, strict=False):
        own = [rule for rule in rules if rule is not None and rule not in rest]
        lines += [f"{group.name}: {r.verb}: {_settings(r)}".rstrip(": ") for r in own]
        left_out = [r for r, own in zip(rest, rules, strict=True) if r and own is None]
        lines += [f"{group.name}: no {rule.verb}" for rule in left_out]
        lines += [f"{group.name}: frozen"] if group.is_frozen else []
    control = composition.control
    for field in dataclasses.fields(control):
        part = getattr(control, field.name)
        if part is not None:
            lines.append(f"{field.name}: {_settings(part)}".rstrip(": "))
    return lines


def _settings(part: Any) -> str:
    shown = []
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, Dense | BlockStorage):
            text = "" if value == Dense() else as_written(value)
        elif value is not None:
            # Lines that are shown and not compared, so without any address.
            text = re.sub(r" at 0x[0-9a-f]+", "", repr(value))
        else:
            text = ""
        if text:
            shown.append(f"{field.name}={text}")
    return ", ".join(shown)
