"""The resolved plan of a transformation, as a table."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from optadamw.base.errors import counted, mistyped
from optadamw.base.tree import Leaves, parameters
from optadamw.base.types import PyTree
from optadamw.control.loss_scale import DynamicLossScale
from optadamw.reports.cpu_pass import pass_line
from optadamw.reports.kernels import kernel_lines
from optadamw.reports.notes import notes_on
from optadamw.rules.groups import Variant
from optadamw.rules.rule import Rule, Stage
from optadamw.store.blockwise import BlockStorage
from optadamw.store.dense import Dense
from optadamw.store.formats import as_written
from optadamw.store.slot import Slot
from optadamw.store.state import buffers_in
from optadamw.transforms.options import argument_name
from optadamw.transforms.transformation import Transformation
from optadamw.walk.composition import Composition
from optadamw.walk.plan import LeafPlan, plan_of


def describe(tx: optax.GradientTransformation, params: PyTree) -> str:
    """Return a text that lists the rules of `tx`, and what each parameter gets.

    Args:
      tx: a transformation of this library.
      params: the parameters, or their shapes (`jax.ShapeDtypeStruct`).

    Returns:
      A text of one line per rule and per parameter: path, shape, dtype, weight decay,
      buffers with their dtypes, bytes of the buffers; and the totals. Lines that begin
      with "!" say what can stall the training: 16-bit parameters that are rounded to
      nearest, a function that chooses no parameter, a schedule that ends, layers
      stacked in one array, parameters too small for 8 bits. If Pallas kernels may run
      parameters, the text lists for TPUs and NVIDIA GPUs which they run, and why not
      the others. The bytes are those of the state that `tx.init(params)` returns. If
      the parameters are on a mesh, also the layout of the buffers, and their bytes on
      each device. On a CPU, a last line says what runs `step`, such as "pass: native
      (cc 12.2.0)" or "pass: XLA (no compiler: cc is not on the PATH)".

    Raises:
      TypeError: `tx` is not from this library, or a parameter is no array.
      ValueError: a pattern matches no parameter.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx = optadamw.adamw(1e-3, weight_decay=0.1, mask="*/kernel")
      >>> params = {"dense": {"kernel": jnp.ones((8, 4)), "bias": jnp.zeros(4)}}
      >>> print(optadamw.describe(tx, params))  # doctest: +ELLIPSIS
      adamw(0.001, weight_decay=0.1, mask='*/kernel')
      <BLANKLINE>
      1. scale_by_adam: b1=0.9, b2=0.999, \
bias_correction=True, eps=1e-08, eps_root=0.0, eps_mode='outside', nesterov=False
      2. add_decoupled_weight_decay: weight_decay=0.1, mode='lr', mask='*/kernel'
      3. scale_by_learning_rate: learning_rate=0.001
      <BLANKLINE>
      parameter     shape  dtype    weight decay  buffers                 bytes
      dense/bias    4      float32  no            mu float32, nu float32     32
      dense/kernel  8 x 4  float32  0.1           mu float32, nu float32    256
      <BLANKLINE>
      2 parameters, 36 numbers, 144 bytes; state 292 bytes (8.1 per number)
      <BLANKLINE>
      pass: ... (...)
    """
    if not isinstance(tx, Transformation):
        raise mistyped("tx", "a transformation of optadamw", tx)
    composition = tx.recipe.composition
    leaves = parameters(params)
    plan = plan_of(composition, leaves, params).rows
    header = ["parameter", "shape", "dtype", "weight decay", "buffers", "bytes"]
    rows = [
        [
            path or "(the root)",
            " x ".join(map(str, array.shape)) or "scalar",
            jnp.dtype(array.dtype).name,
            _decay(composition, row),
            _buffers(row.buffers, array),
            f"{_bytes(row.buffers, array):,}",
        ]
        for path, array, row in zip(leaves.paths, leaves.arrays, plan, strict=True)
    ]
    if all(
        isinstance(getattr(x, "sharding", None), NamedSharding) for x in leaves.arrays
    ):
        header += ["layout of the buffers", "per device"]
        for row, cells in zip(rows, _layouts(tx, leaves), strict=True):
            row += cells
    sections = [
        repr(tx),
        "\n".join(
            [
                *_control_lines(composition),
                *_rule_lines(composition.variants[-1]),
                *_group_lines(composition, plan),
            ]
        ),
        *notes_on(composition, leaves, params),
        "\n".join(_aligned([header, *rows])),
        _totals(composition, leaves, plan),
    ]
    line = pass_line(tx, params)
    if line is not None:
        sections.append(line)
    kernels = kernel_lines(composition, leaves, plan)
    if kernels:
        sections.insert(-1, "\n".join(kernels))
    return "\n\n".join(sections)


def _layouts(tx: Transformation, leaves: Leaves) -> list[list[str]]:
    """Return the specs and the bytes per device of the buffers of each parameter."""
    shapes = [
        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        for x in leaves.arrays
    ]
    buffers = buffers_in(tx.init(leaves.treedef.unflatten(shapes)))
    columns = [leaves.treedef.flatten_up_to(tree) for tree in buffers.values()]
    cells = []
    for kept in zip(*columns, strict=True):
        held = [x for x in kept if x is not None]
        specs = dict.fromkeys(
            f"P({', '.join(map(repr, x.sharding.spec))})" for x in held
        )
        size = sum(
            math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in held
        )
        cells.append([", ".join(specs), f"{size:,}"])
    return cells or [["none", "0"] for _ in leaves.paths]


def _rule_lines(rules: Variant) -> list[str]:
    """Return a line for each atom; the two rules of Adam share one."""
    lines: list[tuple[str, list[str]]] = []
    for rule in rules:
        if rule is None:
            continue
        settings = _settings(rule)
        moments = [shown for verb, shown in lines if verb == rule.verb]
        if rule.stage == Stage.DIRECTION and moments:
            moments[-1].extend(text for text in settings if text not in moments[-1])
            continue
        lines.append((rule.verb, settings))
    return [
        f"{i}. {verb}: {', '.join(settings)}" if settings else f"{i}. {verb}"
        for i, (verb, settings) in enumerate(lines, start=1)
    ]


def _group_lines(composition: Composition, plan: Sequence[LeafPlan]) -> list[str]:
    """Return for each group the number of its parameters, and the rules of its own."""
    lines = []
    for number, group in enumerate(composition.groups[:-1]):
        count = sum(row.group == number for row in plan)
        own = ["frozen"] if group.is_frozen else []
        for rule, common in zip(group.rules, composition.variants[-1], strict=True):
            if rule is None and common is not None:
                own.append(f"no {common.verb}")
            elif rule is not None and rule != common:
                settings = [] if common is None else _settings(common)
                changed = [text for text in _settings(rule) if text not in settings]
                own.append(f"{rule.verb}: {', '.join(changed)}".rstrip(": "))
        lines.append(
            f"{group.name}, {counted(count, 'parameter')}: "
            f"{'; '.join(own) or 'as the rest'}"
        )
    return lines


def _control_lines(composition: Composition) -> list[str]:
    """Return a line for each wrapper, in the order in which they act in a step."""
    control = composition.control
    guard = "skip_nonfinite" if control.spikes is None else "skip_spikes"
    parts: list[tuple[str, tuple[Any, ...]]] = [
        ("with_loss_scale", (control.loss_scale,)),
        (guard, (control.effective_guard, control.spikes)),
        ("multi_steps", (control.accumulation,)),
        ("with_zero1", (composition.zero1,)),
        ("with_stats", (control.statistics,)),
    ]
    lines = []
    if composition.has_chosen_commit:
        lines.append(f"-  with_commit: commit={composition.commit.name!r}")
    if composition.offload:
        lines.append(f"-  with_offload: buffers={composition.offload!r}")
    if composition.has_reproducible_norms:
        lines.append("-  with_reproducible_norms")
    for wrapper, records in parts:
        found = [record for record in records if record is not None]
        shown = [text for record in found for text in _arguments(wrapper, record)]
        if found:
            lines.append(f"-  {wrapper}: {', '.join(shown)}".removesuffix(": "))
    return lines


def _settings(rule: Rule) -> list[str]:
    return _arguments(rule.verb, rule)


def _arguments(maker: str, record: Any) -> list[str]:
    """Return the fields of a record as arguments of the atom or wrapper of it."""
    if isinstance(record, DynamicLossScale):
        return [f"loss_scale={record!r}"]
    shown = []
    slots = {slot.name for slot in getattr(record, "slots", ())}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if not field.repr:
            continue
        name = argument_name(maker, field.name)
        if field.name in slots or isinstance(value, Dense | BlockStorage):
            # Without a form of its own a buffer has the one that its row shows.
            if value != Dense():
                if name == field.name:  # a rule that the table does not know
                    name = f"{name.removesuffix('_dtype')}_dtype"
                shown.append(f"{name}={as_written(value)}")
        elif value is not None:
            shown.append(f"{name}={value!r}")
    return shown


def _decay(composition: Composition, row: LeafPlan) -> str:
    if composition.is_frozen(row.group):
        return "frozen"
    decays = [
        repr(rule.weight_decay) if hasattr(rule, "weight_decay") else rule.verb
        for rule in row.chosen(composition.variants[row.group])
        if rule.stage == Stage.DECAY
    ]
    return " + ".join(decays) or "no"


def _buffers(kept: Sequence[Slot], array: jnp.ndarray) -> str:
    summaries = [(slot.name, *slot.store.summary(array)) for slot in kept]
    named = [f"{name} {form}" for name, form, _ in summaries if form]
    return ", ".join(named) or "none"


def _bytes(kept: Sequence[Slot], array: jnp.ndarray) -> int:
    return sum(slot.store.summary(array)[1] for slot in kept)


def _totals(composition: Composition, leaves: Leaves, plan: Sequence[LeafPlan]) -> str:
    numbers = sum(math.prod(a.shape) for a in leaves.arrays)
    own = sum(math.prod(a.shape) * a.dtype.itemsize for a in leaves.arrays)
    small = jax.tree.leaves(composition.initial_scalars())
    state = sum(x.size * x.dtype.itemsize for x in small) + sum(
        _bytes(row.buffers, a) for row, a in zip(plan, leaves.arrays, strict=True)
    )
    per_number = f" ({state / numbers:.1f} per number)" if numbers else ""
    return (
        f"{counted(len(leaves.paths), 'parameter')}, {counted(numbers, 'number')}, "
        f"{counted(own, 'byte')}; state {counted(state, 'byte')}{per_number}"
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines in columns; the last column, of numbers, is set to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        cells[-1] = row[-1].rjust(widths[-1])
        lines.append("  ".join(cells))
    return lines
