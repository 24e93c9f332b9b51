"""A restore on its way: the leaves taken so far, and the notes for its report."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import at_leaf
from optadamw.checkpoint.blocks import (
    Form,
    reformed,
    saved_scales,
    scales_beside,
    with_axis_of,
)
from optadamw.checkpoint.decisions import Decisions
from optadamw.checkpoint.fitting import fitted, native_dtype
from optadamw.checkpoint.layouts import layout_of
from optadamw.checkpoint.matching import is_around, left_over
from optadamw.checkpoint.names import Name
from optadamw.checkpoint.packed import counters
from optadamw.checkpoint.portable import Saved
from optadamw.checkpoint.record import Meaning
from optadamw.checkpoint.report import Report, grouped
from optadamw.store.state import is_buffer


@dataclass
class Draft:
    """The leaves that a restore has taken so far, and the notes for its report."""

    source: Saved
    decisions: Mapping[str, Decisions]
    cast: bool
    kept: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    casts: list[tuple[str, str, str]] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    moved: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    young: list[str] = field(default_factory=list)
    """Leaves of moments that start afresh while others of their buffer do not."""
    free: Collection[tuple[str, str]] = ()
    """Scope and field of the buffers in 8 bits that keep the axis of their blocks."""

    def leaf(self, name: Name, form: Form, taken: str | None) -> Form:
        """Return the leaf of the new state called `name`, in the form of `form`.

        Args:
          name: the name of the new leaf.
          form: the leaf as `tx.init` makes it.
          taken: the name of the saved leaf; None: the new leaf starts afresh.
        """
        own, like = str(name), form.array
        if taken is None or self._is_stale(name, taken, like):
            if isinstance(like, jax.ShapeDtypeStruct):
                raise at_leaf(
                    own,
                    "it was not saved, and is to be made of parameters that were given "
                    "as shapes.",
                    "Pass the parameters themselves.",
                )
            self._note_fresh(name, like)
            self.fresh.append(own)
            return form
        array, scales = self.source.arrays[taken], None
        self.used.append(taken)
        if is_buffer(name.field):
            if (name.scope, name.field) in self.free:
                form = with_axis_of(self._saved(name, taken), form)
            array, scales = self._reformed(name, form, taken)
        if name.field == "events":
            array = self._counters(name, array, like)
        self.kept.append(own)
        if taken != own:
            self.renamed.append((own, taken))
        is_known = any(name_ == own for name_, _, _ in self.casts[-1:])
        if array.dtype != native_dtype(like) and not is_known:
            self.casts.append((own, str(array.dtype), str(native_dtype(like))))
        placed = fitted(own, array, like, cast=self.cast)
        was, now = self.source.layouts.get(taken), layout_of(placed)
        if was is not None and now is not None and was != now:
            self.moved.append((own, was, now))
        self._note_around(name, placed, like)
        if scales is None:
            return Form(placed)
        beside = str(scales_beside(name))
        return Form(placed, fitted(beside, scales, form.scales, cast=False))

    def _reformed(self, name: Name, form: Form, taken: str) -> Form:
        """A saved buffer, converted from 8 bits or to 8 bits if its form differs."""
        saved = self._saved(name, taken)
        if saved.scales is not None:
            self.used.append(saved_scales(name, taken))
        made = reformed(name, saved, form, cast=self.cast)
        if made is not saved and made.array is not saved.array:
            self.casts.append((str(name), saved.text, form.text))
        return made

    def _saved(self, name: Name, taken: str) -> Form:
        arrays = self.source.arrays
        return Form(arrays[taken], arrays.get(saved_scales(name, taken)))

    def _is_stale(self, name: Name, taken: str, like: Any) -> bool:
        """Whether a saved leaf is an empty accumulator of another dtype."""
        if name.field != "accumulator" or self.decisions[name.scope].filled:
            return False
        return self.source.arrays[taken].dtype != native_dtype(like)

    def _counters(self, name: Name, array: np.ndarray, like: Any) -> np.ndarray:
        has_history = "history" not in self.decisions[name.scope].fresh
        old = self.source.meaning.get(name.scope)
        array, lost = counters(array, old, like, keep_history=has_history)
        if lost:
            self.notes.append(
                f"counters that this version does not have: {', '.join(lost)}"
            )
        return array

    def _note_fresh(self, name: Name, like: Any) -> None:
        step = max(self.source.steps.values())
        is_counter = (
            jnp.issubdtype(native_dtype(like), jnp.integer) and np.shape(like) == ()
        )
        if is_around(name) and is_counter and step:
            value = int(jax.device_get(like))
            self.notes.append(f"{name} starts at {value}, at step {step:,}")
        whole = name.field in self.decisions.get(name.scope, Decisions()).fresh
        if name.field in ("mu", "nu") and not whole and step:
            self.young.append(str(name))
        if name.field == "accumulator" and not whole:
            filled = self.decisions[name.scope].filled
            if filled:
                self.notes.append(
                    "a parameter that was not saved has no gradients in the open "
                    f"window: they count as 0 in its first {filled} micro-batches"
                )

    def _note_around(self, name: Name, placed: Any, like: Any) -> None:
        """Note an injected hyperparameter whose saved value replaces the given one."""
        if not is_around(name) or np.shape(like) != ():
            return
        if "hyperparams" in name.path.split("/"):
            was, given = (np.asarray(jax.device_get(x)).item() for x in (placed, like))
            if was != given:
                self.notes.append(f"{name} is {was!r} as saved, not {given!r} as given")

    def report(self, new: Mapping[str, Meaning]) -> Report:
        """Return the report of this restore; `new` is the meaning of the new States."""
        notes = [n for d in self.decisions.values() for n in d.notes] + self.notes
        if self.young:
            step = max(self.source.steps.values())
            notes.append(
                f"{grouped(self.young)}: starting at zero, and bias correction takes "
                f"it for the mean of {step:,} gradients"
            )
        over = left_over(self.source.arrays, self.used)
        return Report(
            step=max(self.source.steps.values()),
            kept=tuple(self.kept),
            fresh=tuple(self.fresh),
            left_over=over + self.source.others,
            renamed=tuple(self.renamed),
            cast=tuple(self.casts),
            moved=tuple(self.moved),
            changed=tuple(_changes(self.source.meaning, new)),
            notes=tuple(dict.fromkeys(notes)),
        )


def _changes(old: Mapping[str, Meaning], new: Mapping[str, Meaning]) -> list[str]:
    """Return the rules that only the old States or only the new States have."""
    changes = []
    for scope in old.keys() & new.keys():
        was, now = (list(m[scope].get("rules", ())) for m in (old, new))
        changes += [f"- {line}" for line in was if line not in now]
        changes += [f"+ {line}" for line in now if line not in was]
    return changes
