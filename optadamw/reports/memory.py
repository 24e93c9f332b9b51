"""The bytes of parameters, gradients, state and temporaries, on each device."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from optadamw.base.errors import invalid, mistyped, renamed, reworded
from optadamw.base.tree import Leaves, parameters
from optadamw.base.types import PyTree
from optadamw.reports.memory_table import MemoryPlan, Share
from optadamw.store.blockwise import BlockStore
from optadamw.store.layout import fsdp, remark_on_whole
from optadamw.store.state import SCALARS, State, buffers_in, is_scales, scales_of
from optadamw.transforms.transformation import Transformation, transformation
from optadamw.transforms.with_offload import with_offload
from optadamw.transforms.with_zero1 import with_zero1
from optadamw.walk.plan import Plan, plan_of
from optadamw.walk.zero1 import layouts_of, undivided


def memory_plan(
    tx: Transformation,
    params: PyTree,
    mesh: Mesh | AbstractMesh | None = None,
    *,
    over: str | Sequence[str] | None = None,
    offload: str | Sequence[str] | None = None,
    temporaries: bool = True,
) -> MemoryPlan:
    """Compute the memory that a training with `tx` takes, without allocating it.

    The plan has the bytes of the parameters, of the gradients of those that train, of
    each buffer of the state, and of the temporaries of a step.

    Args:
      tx: a transformation of this library.
      params: the parameters, or their shapes (`jax.ShapeDtypeStruct`). A parameter with
        a `NamedSharding` is divided as its sharding says, whatever `mesh` is.
      mesh: the devices over which the other parameters are divided, as FSDP does: along
        the largest dimension whose length is a multiple of the number of devices, the
        last one only if no other fits. If no dimension fits all axes of the mesh, fewer
        axes divide the parameter; if none does, it is whole on every device. A mesh of
        devices that you do not have is an `AbstractMesh`, such as
        `jax.sharding.AbstractMesh((64,), ("data",))`. None (default): the other
        parameters are on one device.
      over: an axis of the mesh, or a tuple of axes, over which the state is divided
        beyond the parameters: the plan is that of `with_zero1(tx, over)`. A parameter
        without a sharding is then divided over the other axes only. None (default): the
        state lies as the parameters, or as `tx` says.
      offload: buffers in the memory of the host: the plan is that of
        `with_offload(tx, offload)`. None (default): as `tx` says.
      temporaries: whether to compile `tx.jit_step` and read the temporaries that XLA
        allocates. They depend on the backend, which is that of `mesh`, or JAX's default
        backend for None and for an abstract mesh. For an abstract mesh the program of
        one device's part is compiled. Default: True. False compiles nothing.

    Returns:
      A `MemoryPlan`; `print` shows it as a table.

    Raises:
      TypeError: `tx` is not from this library, a parameter is no array, or `mesh` is
        no mesh.
      ValueError: `params` has no parameters; the mesh has no axis of the name `over`,
        or a parameter is divided over it already; `tx` has no buffer of a name in
        `offload`.

    Example:
      >>> import jax, jax.numpy as jnp, optadamw
      >>> params = {"w": jax.ShapeDtypeStruct((4096, 4096), jnp.bfloat16)}
      >>> tx = optadamw.adamw(1e-3, precision="compact")
      >>> plan = optadamw.memory_plan(tx, params, temporaries=False)
      >>> print(plan)  # doctest: +NORMALIZE_WHITESPACE
      16,777,216 parameters on 1 device
      <BLANKLINE>
                  bytes per parameter      in all  per device
      parameters                 2.00   32.00 MiB   32.00 MiB
      gradients                  2.00   32.00 MiB   32.00 MiB
      mu                         1.03   16.50 MiB   16.50 MiB
      nu                         1.03   16.50 MiB   16.50 MiB
      counters                   0.00        44 B        44 B
      persistent                 4.06   65.00 MiB   65.00 MiB
    """
    if not isinstance(tx, Transformation):
        raise mistyped("tx", "a transformation of optadamw", tx)
    if mesh is not None and not isinstance(mesh, Mesh | AbstractMesh):
        raise mistyped("mesh", "a jax.sharding.Mesh or AbstractMesh, or None", mesh)
    leaves = parameters(params)
    if not any(math.prod(array.shape) for array in leaves.arrays):
        raise invalid("params", "a tree with parameters", params)
    if over is not None:
        tx = with_zero1(tx, over)
    if offload is not None:
        with reworded(lambda message: renamed(message, {"buffers": "offload"})):
            tx = with_offload(tx, offload)
    zero1 = tx.recipe.composition.zero1
    shapes = _laid_out(leaves, mesh, () if zero1 is None else zero1.axis)
    if zero1 is not None:
        zero1 = replace(zero1, on_whole=None)  # the notes of the plan report them
        tx = transformation(replace(tx.recipe.composition, zero1=zero1))
    state = tx.init(shapes)
    kept = jax.tree.leaves(shapes)
    plan = plan_of(tx.recipe.composition, leaves, shapes)
    trained = [x for i, x in enumerate(kept) if not plan.is_frozen(i)]
    found, platform = None, _platform(mesh)
    gathered, notes = _notes(plan, leaves, shapes)
    if zero1 is not None:
        placed = parameters(shapes)
        whole_leaves = undivided(placed, layouts_of(zero1, placed) or ())
        notes += (remark_on_whole(whole_leaves, zero1.axis),) if whole_leaves else ()
    meshes = [x.sharding.mesh for x in kept if x.sharding is not None]
    whole = not any(isinstance(m, AbstractMesh) for m in meshes)
    if temporaries and (whole or not (gathered or zero1)):
        found = _temporaries(tx, shapes if whole else _local(shapes))
    elif temporaries:
        notes += (
            "temporaries are not told: on an abstract mesh they are those of the part "
            "of one device, without what is gathered. Give a Mesh.",
        )
    return MemoryPlan(
        count=sum(math.prod(x.shape) for x in kept),
        devices=max([_devices(x) for x in kept] + [mesh.size if mesh else 1]),
        shares={
            "parameters": _share(kept),
            "gradients": _share(trained),
            **_buffers(state),
        },
        temporaries=found,
        platform=platform,
        notes=notes,
        on_host=tx.recipe.composition.offload,
    )


def _laid_out(
    leaves: Leaves, mesh: Mesh | AbstractMesh | None, without: Sequence[str]
) -> PyTree:
    """Return the parameters as shapes, each with the sharding that it has or gets.

    Parameters without a sharding are not divided over the axes `without`.
    """
    shapes = []
    for array in leaves.arrays:
        sharding = getattr(array, "sharding", None)
        if not isinstance(sharding, NamedSharding):
            sharding = None if mesh is None else fsdp(array.shape, mesh, without)
        shapes.append(jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding))
    return leaves.treedef.unflatten(shapes)


def _devices(x: jax.ShapeDtypeStruct) -> int:
    return 1 if x.sharding is None else x.sharding.mesh.size


def _notes(plan: Plan, leaves: Leaves, shapes: PyTree) -> tuple[bool, tuple[str, ...]]:
    """Return whether a leaf is gathered, and notes on leaves that are not divided."""
    found: list[str] = []
    whole: list[str] = []
    rows = zip(leaves.paths, jax.tree.leaves(shapes), plan.rows, strict=True)
    for path, x, row in rows:
        if x.sharding is None or x.sharding.mesh.size == 1:
            continue
        if _shard(x) == x.shape and math.prod(x.shape) > 1:
            whole.append(path)
        stores = [s.store for s in row.slots if isinstance(s.store, BlockStore)]
        if not stores or not math.prod(x.shape):
            continue
        block, axis = stores[0].block(x.shape), stores[0].axis_in(x.shape)
        length, parts = x.shape[axis], x.shape[axis] // _shard(x)[axis]
        if length // block % parts:
            fit = math.gcd(block, length // parts)
            which = "last axis" if axis == -1 else f"axis {axis}"
            found.append(
                f"'{path}' has {length // block} blocks of {block} along its {which}, "
                f"and {parts} devices do not divide them: it is gathered at every "
                f"step. Use blockwise(block_size={fit}), or divide another axis."
            )
    others = (f"whole on every device: {', '.join(whole[:5])}",) if whole else ()
    return bool(found), (*found, *others)


def _buffers(state: State) -> dict[str, Share]:
    held = buffers_in(state)
    shares = {
        name: _share(jax.tree.leaves((buffer, held.get(scales_of(name)))))
        for name, buffer in held.items()
        if not is_scales(name)
    }
    arrays = jax.tree.leaves([getattr(state, name) for name in SCALARS])
    total = sum(x.size * x.dtype.itemsize for x in arrays)
    return shares | {"counters": Share(total, total)}


def _share(arrays: list[Any]) -> Share:
    total = local = 0
    for x in arrays:
        total += math.prod(x.shape) * x.dtype.itemsize
        local += math.prod(_shard(x)) * x.dtype.itemsize
    return Share(total, local)


def _shard(x: Any) -> tuple[int, ...]:
    return x.shape if x.sharding is None else x.sharding.shard_shape(x.shape)


def _local(shapes: PyTree) -> PyTree:
    """Return the shapes of the part of each parameter that one device holds."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(_shard(x), x.dtype), shapes)


def _temporaries(tx: Transformation, shapes: PyTree) -> int | None:
    state = tx.init(shapes)
    extra = {}
    if tx.recipe.composition.control.needs_loss:
        extra["loss"] = jax.ShapeDtypeStruct((), jnp.float32)
    compiled = tx.jit_step.lower(shapes, state, shapes, **extra).compile()
    analysis = compiled.memory_analysis()  # None on a backend without figures
    return analysis and analysis.temp_size_in_bytes


def _platform(mesh: Any) -> str:
    is_real = isinstance(mesh, Mesh)
    return mesh.devices.flat[0].platform if is_real else jax.default_backend()
