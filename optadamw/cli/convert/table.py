"""The report of `optadamw convert`."""

import inspect
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.adamw import adamw
from optadamw.base.errors import some_leaves
from optadamw.dialects.conversion import FORMS
from optadamw.dialects.files.checkpoints import Bare
from optadamw.dialects.states.form import Plan
from optadamw.dialects.states.group_numbers import PLACES
from optadamw.store.state import State


def table(
    plan: Plan,
    out: Path,
    bare: Any,
    found_at: str | None,
    ordered_by: str | None,
    notes: Sequence[str] = (),
) -> str:
    """Say what was written: the fields of the state, and what nobody stated."""
    rows = _summary(bare)
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    lines = [f"{plan.source} -> {plan.target}"]
    if found_at is not None:
        lines.append(f"  found under '{found_at}', the only state in the file")
    if ordered_by is not None:
        lines.append(f"  order of the parameters by {ordered_by}")
    if taken := _unstated(plan):
        options = (f"--{name.replace('_', '-')} {x:g}" for name, x in taken.items())
        lines.append(f"  not known from FROM, so as by default: {', '.join(options)}")
    lines += [f"  note: {note}" for note in notes]
    for name, count, size in rows:
        line = f"  {name:<{widths[0]}}  {count:>{widths[1]}}  {size}"
        lines.append(line.rstrip())
    return "\n".join([*lines, f"Written: {out}"])


def on_kernels(plan: Plan, params: Mapping[str, Any]) -> list[str]:
    """Say which matrices were written in the layout of FROM, if TO has another."""
    source, target = (FORMS.get(name) for name in (plan.source, plan.target))
    if source is None or target is None:
        return []
    first, then = source.peer.outputs_first, target.peer.outputs_first
    if None in (first, then) or first == then:
        return []
    turned = (*plan.transpose, *plan.to_transpose)
    kept = [
        path
        for path, array in params.items()
        if np.ndim(array) == 2 and not any(fnmatchcase(path, p) for p in turned)
    ]
    if not kept:
        return []
    rest = f" and {len(kept) - 1} more matrices were" if len(kept) > 1 else " was"
    shapes = {True: "(outputs, inputs)", False: "(inputs, outputs)"}
    return [
        f"'{kept[0]}'{rest} written as in {source.peer.title}, whose dense layers have "
        f"{shapes[bool(first)]}; those of {target.peer.title} have "
        f"{shapes[bool(then)]}. Turn them with --to-transpose PATTERN; embeddings stay "
        "as they are."
    ]


def on_width(saved: Any) -> list[str]:
    """Say that numbers of 64 bits are rounded to 32, where JAX has no wider ones."""
    if jnp.result_type(float) == np.float64:
        return []
    dtypes = {
        str(getattr(x, "dtype", ""))
        for x in jax.tree.leaves(saved)
        if getattr(x, "ndim", 0)
    }
    if not any(dtype.endswith(("float64", "complex128")) for dtype in dtypes):
        return []
    return ["float64 in FROM was rounded to float32. JAX_ENABLE_X64=1 keeps it."]


def on_schedule(given: Plan, plan: Plan) -> list[str]:
    """Say whether TO has a learning rate, if it would not have one with a schedule.

    Args:
      given: the arguments of the command.
      plan: with what the files tell.
    """
    form = FORMS.get(plan.target)
    if form is None or not form.may_lack_rate or given.learning_rate is not None:
        return []
    title = form.peer.title
    if plan.learning_rate is None:
        return [
            f"the file holds no learning rate, as {title} saves an optimizer that has "
            "a schedule. One with a number as its rate does not load the file; for it "
            "give the number with --learning-rate."
        ]
    return [
        f"the file holds the learning rate {plan.learning_rate:g} of FROM. An "
        f"optimizer of {title} that has a schedule does not load it; for one give "
        "--learning-rate schedule."
    ]


def on_frozen(bare: Bare) -> list[str]:
    """Say which parameters have no moments in FROM, and zeros in TO."""
    frozen = [path for path, array in (bare.state.mu or {}).items() if array is None]
    if not frozen:
        return []
    what = "frozen in FROM, and with moments of zeros in TO"
    return [f"{what}: {some_leaves(frozen, 3)}."]


def _unstated(plan: Plan) -> dict[str, float]:
    """Return the options that TO holds and nobody stated: the defaults of `adamw`."""
    form = FORMS.get(plan.target)
    if form is None:
        return {}
    held = PLACES if form.is_state_dict else form.written_with
    defaults = inspect.signature(adamw).parameters
    return {
        name: defaults[name].default
        for name in held
        if name != "learning_rate" and getattr(plan, name) is None
    }


def _summary(bare: Bare) -> list[tuple[str, str, str]]:
    """List the contents of a State: field, number of arrays or value, bytes."""
    rows = [("step", f"{int(jnp.asarray(bare.state.step)):,}", "")]
    for name, value in zip(State._fields[1:], bare.state[1:], strict=True):
        if isinstance(value, Mapping):
            arrays = [array for array in value.values() if array is not None]
            count = f"{len(arrays)} array{'' if len(arrays) == 1 else 's'}"
            size = sum(np.asarray(array).nbytes for array in arrays)
            rows.append((name, count, f"{size:,} bytes"))
        elif name in ("micro_step", "loss_scale") and value is not None:
            rows.append((name, f"{np.asarray(value).item():g}", ""))
    return rows
