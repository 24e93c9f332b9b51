"""The pass over all leaves that have a kernel: many leaves in one call, in place.

XLA's time to compile one call grows with the square of its operands, so a call has few
leaves. It also has few bytes: in a train step without a norm XLA computes each gradient
just before it is used, and a call needs all of its gradients at once.

A call writes its parameters in place. The backward pass reads a parameter too, and XLA
copies it unless it knows that this read comes first. A gradient of an earlier layer is
computed after the read, because it depends on its result. A call therefore has one such
gradient among its operands, which the kernel does not read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from optadamw.base.errors import at_leaf
from optadamw.base.random_bits import mixed
from optadamw.base.types import Array
from optadamw.leaf.program import LeafInput
from optadamw.native.call import Call, Calls, run
from optadamw.native.kernel import (
    Refusal,
    arrays_of,
    kernels_of,
    scalars_of,
    stride_of,
    usable_compiler,
)
from optadamw.walk.conditional import Outcome, Pass, always, if_step

LEAVES = 32
"""The most leaves of one call."""
SHARE = 32
LEAST_BYTES = 2**18
BYTES = 2**22
"""The most bytes of parameters of a call of several leaves: a 32nd of all bytes of the
tree, within these bounds."""
ASYNCHRONOUS = 2**16
"""The elements from which on a step is computed while its caller goes on: a step of one
leaf of this size takes 0.08 ms, and an asynchronous one 0.02 ms more."""


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
    targets: dict[int, str] = {}
    refused: dict[int, str] = {}
    for number, target in enumerate(kernels_of(key.programs, leaves, compiler)):
        if isinstance(target, Refusal):
            refused[number] = target.reason
        else:
            targets[number] = target.name
    if refused and choice == "native":
        raise NoKernelError({paths[i]: reason for i, reason in refused.items()})
    if not targets:
        return by_xla(key, leaves)
    outcome = Outcome([None] * len(leaves), [{}] * len(leaves), None)
    taken = list(targets)
    own = [leaves[i] for i in taken]
    names = list(targets.values())
    _fill(outcome, taken, _run(choice, names, key.part(taken), own, bits, go))
    if refused:
        left = list(refused)
        others = by_xla(key.part(left), [leaves[i] for i in left])
        _fill(outcome, left, others)
    return outcome


def _fill(outcome: Outcome, numbers: Sequence[int], found: Outcome) -> None:
    """Put the results of some leaves in their places among those of all."""
    for place, i in enumerate(numbers):
        outcome.outputs[i] = found.outputs[place]
        outcome.buffers[i] = found.buffers[place]


def _run(
    choice: str,
    targets: Sequence[str],
    key: Pass,
    leaves: Sequence[LeafInput],
    bits: Array,
    go: Array | None,
) -> Outcome:
    """Run leaves that all have kernels, whose names are `targets`."""
    operands: list[Any] = [jnp.ones((), bool) if go is None else go, bits]
    known: dict[int, int] = {}

    def place_of(x: Any) -> int:
        operands.append(x)
        return len(operands) - 1

    def place_of_scalar(x: Any) -> int:
        """Return one place for a scalar that several leaves share."""
        return known[id(x)] if id(x) in known else known.setdefault(id(x), place_of(x))

    def in_place(leaf: LeafInput, grad: int) -> LeafInput:
        """Return a leaf with the place of each array; those that are held come last."""
        held = [leaf.param, leaf.buffers]
        param, buffers = jax.tree.map(place_of, held)
        scalars = jax.tree.map(place_of_scalar, leaf.scalars)
        scale: Any = None if leaf.scale is None else place_of_scalar(leaf.scale)
        return LeafInput(grad, param, buffers, scalars, scale)

    for leaf in leaves:
        jax.tree.map(place_of_scalar, (leaf.scalars, leaf.scale))
    is_large = sum(leaf.like.size for leaf in leaves) >= ASYNCHRONOUS
    counted = [place_of(_counted(bits))] if is_large else []
    grads = [place_of(leaf.grad) for leaf in leaves]
    first = len(operands)
    places = [in_place(*pair) for pair in zip(leaves, grads, strict=True)]
    sizes = [leaf.like.size * leaf.like.dtype.itemsize for leaf in leaves]
    ends = np.cumsum(sizes)
    calls = tuple(
        _call(
            name,
            batch,
            key,
            leaves,
            places,
            [grads[i] for i in _earlier(batch[0], ends)] if number else counted,
        )
        for number, (name, batch) in enumerate(_batches(targets, sizes))
    )
    flat, form = jax.tree.flatten(places)
    plain = _Plain(key, tuple(flat), form, is_gated=go is not None)
    held = len(operands) - first
    results = run(Calls(calls, held, plain, choice == "native"), operands)
    made = [
        jax.tree.map(lambda i: results[i - first], (x.param, x.buffers)) for x in places
    ]
    return Outcome([x for x, _ in made], [x for _, x in made], None)


def _counted(bits: Array) -> Array:
    """Return 64 numbers, for each of which XLA counts 17 operations."""
    return mixed(mixed(lax.iota(jnp.uint32, 64) ^ bits))


def _batches(
    targets: Sequence[str], sizes: Sequence[int]
) -> list[tuple[str, list[int]]]:
    """Return the kernel and the leaves of each call."""
    most = min(max(sum(sizes) // SHARE, LEAST_BYTES), BYTES)
    batches: dict[str, list[list[int]]] = {}
    for number, name in enumerate(targets):
        own = batches.setdefault(name, [[]])
        held = [sizes[i] for i in own[-1]]
        if held and (len(held) == LEAVES or sum(held) + sizes[number] > most):
            own.append([])
        own[-1].append(number)
    return [(name, batch) for name, own in batches.items() for batch in own]


def _earlier(number: int, ends: np.ndarray) -> list[int]:
    """Return a leaf of an earlier layer, or none for the first leaf.

    The leaf lies a 32nd of all bytes before this one, which is mostly in the layer
    before. In a tree whose order is not that of its layers, parameters are copied.

    Args:
      number: the place of a leaf.
      ends: the sums of the bytes of all leaves up to each leaf.
    """
    if number == 0:
        return []
    place = max(0, ends[number - 1] - ends[-1] // SHARE)
    return [min(int(np.searchsorted(ends, place, "right")), number - 1)]


def _call(
    name: str,
    batch: Sequence[int],
    key: Pass,
    leaves: Sequence[LeafInput],
    places: Sequence[LeafInput],
    after: Sequence[int],
) -> Call:
    """Return the call for some leaves, which waits for the operands `after`."""
    programs = [key.programs[i] for i in batch]
    own = [places[i] for i in batch]
    bits = [1] if programs[0].draws else []
    rows = [[*scalars_of(x), *bits] for x in own]
    used = list(dict.fromkeys(i for row in rows for i in row))
    held = [
        [x.param, *arrays_of([x.buffers[slot.name] for slot in program.slots])]
        for program, x in zip(programs, own, strict=True)
    ]
    columns = [i for column in zip(*held, strict=True) for i in column]
    return Call(
        target=name,
        operands=(0, *used, *after, *(x.grad for x in own), *columns),
        leaves=len(batch),
        held=len(held[0]),
        scalars=tuple(1 + used.index(i) for row in rows for i in row),
        positions=tuple(key.positions[i] for i in batch),
        inner=tuple(
            stride_of(program, leaves[i].param)
            for program, i in zip(programs, batch, strict=True)
        ),
    )


@dataclass(frozen=True)
class _Plain:
    """XLA's code for a pass by kernels, with the operands of the pass."""

    key: Pass
    places: tuple[int, ...]
    """The operands that are the arrays of the leaves."""
    form: Any
    """The structure of the leaves."""
    is_gated: bool

    def __call__(self, *operands: Any) -> list[Any]:
        leaves = self.form.unflatten([operands[i] for i in self.places])
        go, bits = operands[:2]
        if self.is_gated:
            made = if_step(self.key, leaves, bits, None, go, None)
        else:
            made = always(self.key, leaves, bits)
        places = [(x.param, x.buffers) for x in self.form.unflatten(self.places)]
        made = list(zip(made.outputs, made.buffers, strict=True))
        pairs = zip(jax.tree.leaves(places), jax.tree.leaves(made), strict=True)
        return [x for _, x in sorted(pairs, key=lambda pair: pair[0])]
