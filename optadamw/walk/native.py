"""The pass over all leaves that have a kernel: many leaves in one call, in place.

XLA's time to compile one call grows with the square of its operands, so a call has few
leaves. It also has few bytes: in a train step without a norm XLA computes each gradient
just before it is used, and a call needs all of its gradients at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import at_leaf
from optadamw.base.random_bits import Site
from optadamw.base.types import Array
from optadamw.leaf.program import LeafInput
from optadamw.native.call import Call, run
from optadamw.native.kernel import (
    Refusal,
    arrays_of,
    kernel_of,
    scalars_of,
    stride_of,
    usable_compiler,
)
from optadamw.walk.conditional import Outcome, Pass, always, if_step

LEAVES = 32
BYTES = 4 * 2**20
"""The most leaves of one call, and the bytes of parameters that end a call."""


class NoKernelError(ValueError):
    """Leaves have no kernel, and kernel="native" asks for one.

    Attributes:
      reasons: why each of these leaves has none, by its path.
    """

    def __init__(self, reasons: Mapping[str, str]):
        self.reasons = dict(reasons)
        path, reason = next(iter(self.reasons.items()))
        error = at_leaf(
            path,
            f'kernel="native" cannot run this step in a kernel: {reason}.',
            'With kernel="auto" XLA runs the leaves that have no kernel.',
        )
        super().__init__(str(error))


def pass_by_kernels(
    choice: Literal["auto", "native"],
    key: Pass,
    leaves: Sequence[LeafInput],
    bits: Array,
    go: Array | None,
    paths: Sequence[str],
    by_xla: Callable[[Pass, Sequence[LeafInput]], Outcome],
) -> Outcome:
    """Run each leaf by its kernel, and by XLA those that have none.

    Args:
      choice: "native" raises an error for a leaf that has no kernel.
      key: the programs and the positions of the leaves.
      leaves: the leaves that have a gradient.
      bits: the `step_key` of the random bits.
      go: whether the step is taken; None: always.
      paths: the path of each leaf.
      by_xla: the same pass by XLA, for any of the leaves.

    Raises:
      NoKernelError: a leaf has no kernel under "native".
    """
    compiler = usable_compiler()
    calls: dict[str, list[list[int]]] = {}
    refused: dict[int, str] = {}
    for number, (program, given) in enumerate(zip(key.programs, leaves, strict=True)):
        target = kernel_of(program, given, compiler)
        if isinstance(target, Refusal):
            refused[number] = target.reason
            continue
        batches = calls.setdefault(target.name, [[]])
        if _is_full([leaves[i] for i in batches[-1]]):
            batches.append([])
        batches[-1].append(number)
    if refused and choice == "native":
        raise NoKernelError({paths[i]: reason for i, reason in refused.items()})
    if len(refused) == len(leaves):
        return by_xla(key, leaves)
    outcome = Outcome([None] * len(leaves), [{}] * len(leaves), None)
    if refused:
        numbers = list(refused)
        others = by_xla(key.part(numbers), [leaves[i] for i in numbers])
        for place, i in enumerate(numbers):
            outcome.outputs[i] = others.outputs[place]
            outcome.buffers[i] = others.buffers[place]
    for name, batches in calls.items():
        for batch in batches:
            _run_batch(choice, name, batch, key, leaves, bits, go, outcome)
    return outcome


def _is_full(leaves: Sequence[LeafInput]) -> bool:
    sizes = [leaf.like.size * leaf.like.dtype.itemsize for leaf in leaves]
    return len(leaves) >= LEAVES or sum(sizes) >= BYTES


def _run_batch(
    choice: str,
    name: str,
    batch: Sequence[int],
    key: Pass,
    leaves: Sequence[LeafInput],
    bits: Array,
    go: Array | None,
    outcome: Outcome,
) -> None:
    """Run the leaves of one call, and put their results into `outcome`."""
    part = key.part(batch)
    draws = part.programs[0].draws
    slots = [slot.name for slot in part.programs[0].slots]
    operands: list[Any] = [jnp.ones((), bool) if go is None else go]
    known: dict[int, int] = {}
    indices = []
    for i in batch:
        given = leaves[i]
        if draws:
            given = given._replace(site=Site(bits, jnp.int32(0)))
        for scalar in scalars_of(given):
            if id(scalar) not in known:
                known[id(scalar)] = len(operands)
                operands.append(scalar)
            indices.append(known[id(scalar)])
    kept = [arrays_of([leaves[i].buffers[slot] for slot in slots]) for i in batch]
    form: Any = jax.tree.structure([leaves[batch[0]].buffers[slot] for slot in slots])
    plain = _Plain(
        key=part,
        scalars=tuple(indices),
        names=tuple(tuple(sorted(row)) for row in leaves[batch[0]].scalars),
        slots=tuple(slots),
        form=form,
        has_scale=leaves[batch[0]].scale is not None,
        is_gated=go is not None,
    )
    operands += [leaves[i].grad for i in batch]
    operands += [leaves[i].param for i in batch]
    operands += [x for column in zip(*kept, strict=True) for x in column]
    count = len(batch)
    call = Call(
        target=name,
        leaves=count,
        held=1 + form.num_leaves,
        scalars=tuple(indices),
        positions=part.positions,
        inner=tuple(
            stride_of(program, leaves[i].param)
            for program, i in zip(part.programs, batch, strict=True)
        ),
        plain=plain,
        is_forced=choice == "native",
    )
    results = run(call, operands)
    for place, i in enumerate(batch):
        made = results[place::count]
        outcome.outputs[i] = made[0]
        outcome.buffers[i] = dict(zip(slots, form.unflatten(made[1:]), strict=True))


@dataclass(frozen=True)
class _Plain:
    """XLA's code for the leaves of a call, with the operands of the call."""

    key: Pass
    scalars: tuple[int, ...]
    """For each leaf the operands that are its scalars."""
    names: tuple[tuple[str, ...], ...]
    """The names of the scalars of each rule; the leaves of a call have the same."""
    slots: tuple[str, ...]
    form: Any
    """The structure of the buffers of a leaf: an array each, or codes and scales."""
    has_scale: bool
    is_gated: bool

    def __call__(self, *operands: Any) -> list[Any]:
        count = len(self.key.programs)
        first = len(operands) - count * (2 + self.form.num_leaves)
        grads, params, *buffers = np.arange(first, len(operands)).reshape(-1, count)
        each = len(self.scalars) // count
        bits = jnp.zeros((), jnp.uint32)
        leaves = []
        for i in range(count):
            own = [operands[j] for j in self.scalars[i * each : (i + 1) * each]]
            if self.key.programs[0].draws:
                bits = own.pop()
            scale = own.pop() if self.has_scale else None
            numbers = iter(own)
            rows = tuple({name: next(numbers) for name in row} for row in self.names)
            arrays = [operands[places[i]] for places in buffers]
            held = dict(zip(self.slots, self.form.unflatten(arrays), strict=True))
            grad, param = operands[grads[i]], operands[params[i]]
            leaves.append(LeafInput(grad, param, held, rows, scale))
        if self.is_gated:
            made = if_step(self.key, leaves, bits, None, operands[0], None)
        else:
            made = always(self.key, leaves, bits)
        kept = [arrays_of([row[slot] for slot in self.slots]) for row in made.buffers]
        columns = zip(*kept, strict=True)
        return [x for column in (made.outputs, *columns) for x in column]
