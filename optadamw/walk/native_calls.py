"""Kernels on leaves that have one: many leaves in one call, in place.

XLA's time to compile one call grows with the square of its operands, so a call has few
leaves. It also has few bytes: in a train step without a norm XLA computes each gradient
just before it is used, and a call needs all of its gradients at once.

A call writes its parameters in place. The backward pass reads a parameter too, and XLA
copies it unless it knows that this read comes first. A gradient of an earlier layer is
computed after the read, because it depends on its result. A call therefore has one such
gradient among its operands, which the kernel does not read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from optadamw.base.random_bits import mixed
from optadamw.base.types import Array
from optadamw.leaf.program import LeafInput
from optadamw.leaf.rows import stride_of
from optadamw.native.call import Call, Calls, OnShards, run
from optadamw.native.kernel import arrays_of, scalars_of
from optadamw.native.shards import Part, as_numbers
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


def run_kernels(
    targets: Sequence[str],
    key: Pass,
    leaves: Sequence[LeafInput],
    bits: Array,
    go: Array | None,
    *,
    is_forced: bool,
    on_shards: Callable[["Plain"], OnShards] | None = None,
    parts: Sequence[Part] | None = None,
    device: Array | None = None,
) -> Outcome:
    """Run leaves that all have kernels.

    Args:
      targets: the kernel of each leaf.
      key: the programs and the positions of the leaves.
      leaves: the leaves, or the part of each that one device has.
      bits: the `step_key` of the random bits.
      go: whether the step is taken; None: always.
      is_forced: whether a module in which no kernel can run is refused.
      on_shards: returns the form of the pass for leaves that are divided over devices;
        None (default): they are not.
      parts: how each leaf is cut; None (default): leaves are whole.
      device: the `device_in` of the mesh, if parts draw random bits.
    """
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
    here = None if device is None else place_of(device)
    grads = [place_of(leaf.grad) for leaf in leaves]
    first = len(operands)
    places = [in_place(*pair) for pair in zip(leaves, grads, strict=True)]
    sizes = [leaf.like.size * leaf.like.dtype.itemsize for leaf in leaves]
    ends = np.cumsum(sizes)
    if parts is None:
        pairs = zip(key.programs, leaves, strict=True)
        parts = [Part(stride_of(program, leaf.param)) for program, leaf in pairs]
    calls = tuple(
        _call(
            name,
            batch,
            key,
            parts,
            here,
            places,
            [grads[i] for i in _earlier(batch[0], ends)] if number else counted,
        )
        for number, (name, batch) in enumerate(_batches(targets, sizes))
    )
    flat, form = jax.tree.flatten(places)
    plain = Plain(key, tuple(flat), form, is_gated=go is not None)
    held = len(operands) - first
    divided = None if on_shards is None else on_shards(plain)
    results = run(Calls(calls, held, plain, is_forced, divided), operands)
    made = [
        jax.tree.map(lambda i: results[i - first], (x.param, x.buffers)) for x in places
    ]
    return Outcome([x for x, _ in made], [x for _, x in made], None)


@dataclass(frozen=True)
class Plain:
    """XLA's code for a pass by kernels, with the operands of the pass."""

    key: Pass
    places: tuple[int, ...]
    """The operands that are the arrays of the leaves."""
    form: Any
    """The structure of the leaves."""
    is_gated: bool

    def __call__(self, *operands: Any) -> list[Any]:
        return self.results(self.part(range(len(self.leaves)), operands))

    @property
    def leaves(self) -> list[LeafInput]:
        """The leaves, with the number of an operand in the place of each array."""
        found: list[LeafInput] = self.form.unflatten(self.places)
        return found

    def part(self, numbers: Sequence[int], operands: Sequence[Any]) -> Outcome:
        """Run some of the leaves."""
        placed, (go, bits) = self.leaves, operands[:2]
        leaves = [jax.tree.map(operands.__getitem__, placed[i]) for i in numbers]
        key = self.key.part(numbers)
        if self.is_gated:
            return if_step(key, leaves, bits, None, go, None)
        return always(key, leaves, bits)

    def results(self, made: Outcome) -> list[Any]:
        """Return the results of the pass in their order."""
        places = [(x.param, x.buffers) for x in self.leaves]
        found = list(zip(made.outputs, made.buffers, strict=True))
        pairs = zip(jax.tree.leaves(places), jax.tree.leaves(found), strict=True)
        return [x for _, x in sorted(pairs, key=lambda pair: pair[0])]


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
    parts: Sequence[Part],
    device: int | None,
    places: Sequence[LeafInput],
    after: Sequence[int],
) -> Call:
    """Return the call for some leaves, which waits for the operands `after`.

    Args:
      name: the kernel.
      batch: the leaves.
      key: the programs and the positions of all leaves.
      parts: how each leaf is cut.
      device: the operand that has the `device_in` of the mesh; None: leaves are whole.
      places: the operands that are the arrays of each leaf.
      after: operands that are computed before the call.
    """
    programs = [key.programs[i] for i in batch]
    own = [places[i] for i in batch]
    bits = [1] if programs[0].draws else []
    rows = [[*scalars_of(x), *bits] for x in own]
    used = list(dict.fromkeys(i for row in rows for i in row))
    used += [device] if bits and device is not None else []
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
        inner=tuple(parts[i].inner for i in batch),
        parts=as_numbers([parts[i] for i in batch], len(used))
        if bits and device is not None
        else (),
    )
