"""The pass over all leaves that have a kernel: many leaves in one call, in place.

XLA's time to compile one call grows with the square of its operands, so a call has few
leaves. It also has few bytes: in a train step without a norm XLA computes each gradient
just before it is used, and a call needs all of its gradients at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import at_leaf
from optadamw.base.random_bits import Site
from optadamw.base.types import Array
from optadamw.leaf.program import LeafInput
from optadamw.native.call import Call, run
from optadamw.native.kernel import Refusal, kernel_of, scalars_of
from optadamw.walk.conditional import Outcome, Pass, always, if_step

LEAVES = 32
BYTES = 4 * 2**20
"""The most leaves of one call, and the bytes of parameters that end a call."""


def pass_by_kernels(
    key: Pass,
    leaves: Sequence[LeafInput],
    bits: Array,
    go: Array | None,
    paths: Sequence[str] | None,
) -> tuple[Outcome, list[int]]:
    """Run the leaves that have a kernel.

    Args:
      key: the programs and the positions of the leaves.
      leaves: the leaves that have a gradient.
      bits: the `step_key` of the random bits.
      go: whether the step is taken; None: always.
      paths: the path of each leaf, if each must have a kernel; None: XLA runs those
        that have none.

    Returns:
      The outcome, with None for leaves without a kernel, and the numbers of these.

    Raises:
      ValueError: `paths` is given, and a leaf has no kernel.
    """
    calls: dict[str, list[list[int]]] = {}
    rest = []
    for number, (program, given) in enumerate(zip(key.programs, leaves, strict=True)):
        target = kernel_of(program, given)
        if isinstance(target, Refusal):
            if paths is not None:
                raise at_leaf(
                    paths[number],
                    f'kernel="native" cannot run this step: {target.reason}.',
                    "Leave `kernel` out, and XLA runs the leaves that have no kernel.",
                )
            rest.append(number)
            continue
        batches = calls.setdefault(target.name, [[]])
        if _is_full([leaves[i] for i in batches[-1]]):
            batches.append([])
        batches[-1].append(number)
    outcome = Outcome([None] * len(leaves), [{}] * len(leaves), None)
    for name, batches in calls.items():
        for batch in batches:
            _run_batch(name, batch, key, leaves, bits, go, outcome)
    return outcome, rest


def _is_full(leaves: Sequence[LeafInput]) -> bool:
    sizes = [leaf.param.size * leaf.param.dtype.itemsize for leaf in leaves]  # type: ignore[union-attr]
    return len(leaves) >= LEAVES or sum(sizes) >= BYTES


def _run_batch(
    name: str,
    batch: Sequence[int],
    key: Pass,
    leaves: Sequence[LeafInput],
    bits: Array,
    go: Array | None,
    outcome: Outcome,
) -> None:
    """Run the leaves of one call, and put their results into `outcome`."""
    programs = tuple(key.programs[i] for i in batch)
    positions = tuple(key.positions[i] for i in batch)
    draws = programs[0].draws
    slots = [slot.name for slot in programs[0].slots]
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
    plain = _Plain(
        key=replace(key, programs=programs, positions=positions),
        scalars=tuple(indices),
        names=tuple(tuple(sorted(row)) for row in leaves[batch[0]].scalars),
        slots=tuple(slots),
        has_scale=leaves[batch[0]].scale is not None,
        is_gated=go is not None,
    )
    operands += [leaves[i].grad for i in batch]
    operands += [leaves[i].param for i in batch]
    operands += [leaves[i].buffers[slot] for slot in slots for i in batch]
    count = len(batch)
    call = Call(name, count, 1 + len(slots), tuple(indices), positions, plain)
    results = run(call, operands)
    for place, i in enumerate(batch):
        made = results[place::count]
        outcome.outputs[i] = made[0]
        outcome.buffers[i] = dict(zip(slots, made[1:], strict=True))


@dataclass(frozen=True)
class _Plain:
    """XLA's code for the leaves of a call, with the operands of the call."""

    key: Pass
    scalars: tuple[int, ...]
    """For each leaf the operands that are its scalars."""
    names: tuple[tuple[str, ...], ...]
    """The names of the scalars of each rule; the leaves of a call have the same."""
    slots: tuple[str, ...]
    has_scale: bool
    is_gated: bool

    def __call__(self, *operands: Any) -> list[Any]:
        count = len(self.key.programs)
        first = len(operands) - count * (2 + len(self.slots))
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
            held = {
                slot: operands[places[i]]
                for slot, places in zip(self.slots, buffers, strict=True)
            }
            grad, param = operands[grads[i]], operands[params[i]]
            leaves.append(LeafInput(grad, param, held, rows, scale))
        if self.is_gated:
            made = if_step(self.key, leaves, bits, None, operands[0], None)
        else:
            made = always(self.key, leaves, bits)
        held = [[row[slot] for row in made.buffers] for slot in self.slots]
        return [x for column in (made.outputs, *held) for x in column]
