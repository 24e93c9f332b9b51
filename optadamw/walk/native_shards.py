"""The pass by kernels over leaves that are divided over devices.

XLA would gather the operands of a call, so each device runs the kernels on its part of
each leaf, inside `shard_map`. On Explicit axes the type of an array shows its part. On
Auto axes the user, `jit_step` or ZeRO-1 state it, or the arguments of the module show
it; XLA runs the other leaves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from optadamw.leaf.pallas.arguments import sharding_by_arguments
from optadamw.leaf.pallas.devices import auto_mesh, kinds_of, mesh_of, sharding_of
from optadamw.leaf.pallas.kernel import layout_of
from optadamw.leaf.pallas.layout import Layout
from optadamw.leaf.pallas.shards import devices_of, divides
from optadamw.leaf.program import LeafInput
from optadamw.native.call import OnShards
from optadamw.native.kernel import Refusal
from optadamw.native.shards import device_in, part_of
from optadamw.walk.conditional import Outcome, Pass
from optadamw.walk.native_calls import Plain, run_kernels

CUT = Refusal("its sharding cuts it into unequal parts, or cuts its blocks")
MIXED = Refusal("its mesh has Auto axes beside Explicit ones")
UNLIKE = Refusal("its gradient, parameter and buffers are divided in different ways")


class Home(NamedTuple):
    """The sharding of a leaf, or its mesh if a trace does not show the sharding."""

    layout: Layout
    sharding: NamedSharding | None = None
    """None: it is not known, or the leaf lies on one device."""
    auto: AbstractMesh | None = None
    """The mesh of Auto axes if `sharding` is not known; None: there is none."""

    def sharding_in(self, module: Any) -> NamedSharding | None:
        """Return the sharding of the leaf in a module that is being lowered."""
        if self.sharding is not None or self.auto is None:
            return self.sharding
        if not self.layout.shape:
            return NamedSharding(self.auto, PartitionSpec())
        found = sharding_by_arguments(module, self.layout, self.auto)
        return found if found is not None and divides(self.layout, found) else None


def home_of(key: Pass, number: int, leaf: LeafInput) -> Home | Refusal:
    """Return where a leaf that has a kernel lies, or why the kernel cannot run parts.

    Args:
      key: the programs and the layouts of all leaves.
      number: the number of the leaf among them.
      leaf: its arrays.
    """
    program = key.programs[number]
    layout = layout_of(program, leaf.like.shape)
    if key.layouts:
        sharding: NamedSharding | None = key.layouts[number].away
    elif program.sharding is None and mesh_of(leaf).empty:
        return Home(layout)
    else:
        sharding = sharding_of(program, leaf)
    if sharding is None:
        if kinds_of(mesh_of(leaf)) == {AxisType.Auto, AxisType.Explicit}:
            return MIXED
        return Home(layout, auto=auto_mesh(leaf))
    if not divides(layout, sharding):
        return CUT
    if not key.layouts and not _is_alike(leaf, sharding):
        return UNLIKE
    return Home(layout, sharding)


def _is_alike(leaf: LeafInput, sharding: NamedSharding) -> bool:
    """Return whether all arrays of a leaf have this sharding, as far as types show."""
    if kinds_of(sharding.mesh) != {AxisType.Explicit}:
        return True
    arrays = _arrays_of(leaf)
    return all(_axes_of(jax.typeof(x).sharding) == _axes_of(sharding) for x in arrays)


def _arrays_of(leaf: LeafInput) -> list[Any]:
    return jax.tree.leaves((leaf.grad, leaf.param, leaf.buffers))


def _param_of(leaf: LeafInput) -> Any:
    assert leaf.param is not None  # `form_of` refuses it
    return leaf.param


def _axes_of(sharding: NamedSharding) -> list[tuple[str, ...]]:
    """Return the axes of the mesh for each axis of an array, in one spelling."""
    parts = devices_of(sharding)
    while parts and not parts[-1]:
        parts.pop()
    return parts


def on_shards(
    targets: tuple[str, ...], homes: Sequence[Home], *, is_forced: bool
) -> Callable[[Plain], OnShards] | None:
    """Return what makes the form of a pass for several devices; None if there are none.

    Args:
      targets: the kernel of each leaf.
      homes: where each leaf lies.
      is_forced: whether XLA must run no leaf.
    """
    if not any(home.sharding or home.auto for home in homes):
        return None
    return partial(_Divided, targets, tuple(homes), is_forced)


@dataclass(frozen=True)
class _Divided:
    """A pass over leaves of which each device has a part."""

    targets: tuple[str, ...]
    homes: tuple[Home, ...]
    is_forced: bool
    plain: Plain

    def __call__(self, module: Any) -> Callable[..., list[Any]] | str:
        """Return the function of the pass in a module; or why XLA must run leaves."""
        found = [home.sharding_in(module) for home in self.homes]
        unknown = [i for i, sharding in enumerate(found) if sharding is None]
        if unknown and (self.is_forced or len(unknown) == len(found)):
            shape = list(self.homes[unknown[0]].layout.shape)
            return (
                "the arguments of the program do not show how a parameter of shape "
                f"{shape} is divided over devices in equal parts of whole blocks"
            )
        return partial(self._run, found)

    def _run(
        self, shardings: Sequence[NamedSharding | None], *operands: Any
    ) -> list[Any]:
        """Run the leaves whose shardings are known by kernels, and others by XLA."""
        outcome = Outcome.of(len(shardings))
        groups: dict[Any, list[int]] = {}
        for i, sharding in enumerate(shardings):
            mesh = None if sharding is None else sharding.mesh.abstract_mesh
            groups.setdefault(mesh, []).append(i)
        for mesh, numbers in groups.items():
            if mesh is None:
                made = self.plain.part(numbers, operands)
            else:
                known = [x for x in (shardings[i] for i in numbers) if x is not None]
                made = self._by_kernels(numbers, known, operands)
            outcome.fill(numbers, made)
        return self.plain.results(outcome)

    def _by_kernels(
        self,
        numbers: Sequence[int],
        shardings: Sequence[NamedSharding],
        operands: Sequence[Any],
    ) -> Outcome:
        """Run each device's parts of leaves of one mesh."""
        key, mesh = self.plain.key.part(numbers), shardings[0].mesh
        all_leaves = self.plain.leaves
        placed = [all_leaves[i] for i in numbers]
        layouts = [self.homes[i].layout for i in numbers]
        values = list(operands)
        for at, leaf in zip(key.layouts, placed, strict=False):
            given = at.entered(jax.tree.map(values.__getitem__, leaf))
            values[leaf.grad], values[_param_of(leaf)] = given.grad, given.param
        specs = dict.fromkeys([0, 1, *jax.tree.leaves(placed)], PartitionSpec())
        for leaf, sharding in zip(placed, shardings, strict=True):
            specs |= dict.fromkeys(_arrays_of(leaf), sharding.spec)
        pairs = list(zip(layouts, shardings, strict=True))

        def on_parts(*own: Any) -> tuple[list[Any], list[Any]]:
            here = dict(zip(specs, own, strict=True))
            draws = any(program.draws for program in key.programs)
            made = run_kernels(
                [self.targets[i] for i in numbers],
                key,
                [jax.tree.map(here.get, leaf) for leaf in placed],
                bits=here[1],
                go=here[0],
                is_forced=self.is_forced,
                parts=[part_of(*pair) for pair in pairs],
                device=device_in(mesh) if draws else None,
            )
            return made.outputs, made.buffers

        outputs, buffers = jax.shard_map(
            on_parts,
            mesh=mesh,
            in_specs=tuple(specs.values()),
            out_specs=(
                [specs[_param_of(leaf)] for leaf in placed],
                [jax.tree.map(specs.get, leaf.buffers) for leaf in placed],
            ),
            check_vma=False,
        )(*(values[i] for i in specs))
        for i, at in enumerate(key.layouts):
            like = values[_param_of(placed[i])]
            made = at.left(key.programs[i], outputs[i], buffers[i], like)
            outputs[i], buffers[i] = made
        return Outcome(outputs, buffers, None)
