"""The composition of a compiled step that knows the shardings of its parameters.

Over Auto axes a trace does not show shardings. `jit_step` reads them from the arrays
with which it is called.
"""

from dataclasses import replace
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from optadamw.base.tree import Leaves, flatten
from optadamw.base.types import PyTree
from optadamw.leaf.pallas.devices import kinds_of
from optadamw.native.kernel import kernels_switch
from optadamw.store.columns import column_of
from optadamw.store.state import State
from optadamw.walk.composition import Composition
from optadamw.walk.shardings import Shardings
from optadamw.walk.zero1 import homes_of


class Homes:
    """The composition for each layout of parameters with which a step is called.

    A composition with ZeRO-1 needs the layout. One that may have kernels states it, so
    that each device runs the kernel on its shard: the arguments of a program show this
    too, unless parameters of one shape are divided in several ways.
    """

    def __init__(self, composition: Composition) -> None:
        self._composition = composition
        self._known: dict[tuple[Any, ...], Composition] = {}
        zero1 = composition.zero1
        if zero1 is None:
            self._is_read = _may_state(composition)
        else:
            self._is_read = zero1.homes is None

    def of(self, params: PyTree, state: Any) -> Composition:
        """Return the composition that knows the layout of these parameters."""
        if not self._is_read:
            return self._composition
        arrays, treedef = jax.tree.flatten(params)
        if self._composition.zero1 is None and not _is_on_mesh(arrays):
            return self._composition
        if any(isinstance(x, jax.core.Tracer) for x in arrays):
            return self._composition
        key = treedef, *(getattr(x, "sharding", None) for x in arrays)
        if key not in self._known:
            self._known[key] = _at_home(self._composition, params, state)
        return self._known[key]


def _is_on_mesh(arrays: list[Any]) -> bool:
    """Return whether the first array is, without a look at the others of a model."""
    first = arrays[0] if arrays else None
    return isinstance(getattr(first, "sharding", None), NamedSharding)


def _may_state(composition: Composition) -> bool:
    """Return whether leaves may run in kernels, and nobody stated their shardings."""
    if composition.is_traced or composition.shardings is not None:
        return False
    if composition.cpu_pass in ("auto", "native"):
        return True
    if composition.cpu_pass is None and kernels_switch() == "1":
        return True
    if composition.kernel is not None:
        return composition.kernel != "never"
    stores = [slot.store for slot in composition.slots]
    kept = any(store.has_scales or store.draws for store in stores)
    return kept or bool(composition.commit.slots)


def _at_home(composition: Composition, params: PyTree, state: Any) -> Composition:
    zero1 = composition.zero1
    if zero1 is not None:
        homes = homes_of(jax.tree.leaves(params))
        return replace(composition, zero1=replace(zero1, homes=homes))
    if isinstance(params, State) or not isinstance(state, State):
        return composition  # the step refuses them
    leaves = flatten(params)
    shardings = tuple(_over_auto_axes(x) for x in leaves.arrays)
    if not any(shardings):
        return composition
    held = [column_of(slot, state, leaves) for slot in composition.slots]
    alike = _divided_alike(leaves, shardings, held)
    pairs = zip(shardings, alike, strict=True)
    stated = tuple(sharding if is_alike else None for sharding, is_alike in pairs)
    return replace(composition, shardings=Shardings(leaves.paths, stated))


def shardings_of(params: PyTree) -> Shardings:
    """Return the shardings of parameters, or of shapes, over Auto axes."""
    leaves = flatten(params)
    return Shardings(leaves.paths, tuple(map(_over_auto_axes, leaves.arrays)))


def _over_auto_axes(array: Any) -> NamedSharding | None:
    """Return the sharding over Auto axes of several devices, in one spelling.

    A step returns P("data") as P("data", None), and both are one program.
    """
    sharding = getattr(array, "sharding", None)
    if not isinstance(sharding, NamedSharding) or not isinstance(sharding.mesh, Mesh):
        return None
    mesh, parts = sharding.mesh, []
    if kinds_of(mesh) != {AxisType.Auto}:
        return None
    for part in sharding.spec:
        names = (part,) if isinstance(part, str) else tuple(part or ())
        names = tuple(name for name in names if mesh.shape[name] > 1)
        parts.append(names[0] if len(names) == 1 else names or None)
    while parts and parts[-1] is None:
        parts.pop()
    return NamedSharding(mesh, PartitionSpec(*parts))


def _divided_alike(leaves: Leaves, shardings: Any, held: list[list[Any]]) -> list[bool]:
    """Return for each parameter whether its buffers are divided as it is.

    A kernel would move a buffer that is divided further, as users do by hand.
    """
    found = []
    for i, (array, home) in enumerate(zip(leaves.arrays, shardings, strict=True)):
        rank = array.ndim
        buffers = jax.tree.leaves([column[i] for column in held])
        places = [getattr(x, "sharding", None) for x in buffers if x.ndim == rank]
        found.append(
            home is not None
            and all(x is not None and x.is_equivalent_to(home, rank) for x in places)
        )
    return found
