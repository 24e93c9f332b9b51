"""The sharding of each leaf of a state, by construction, without allocating it."""

import math
from collections.abc import Sequence
from typing import Any, get_args

import jax
import optax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, use_abstract_mesh

from optadamw.base.errors import at_leaf, invalid, naming, no_transformation
from optadamw.base.tree import Leaves, flatten, parameters
from optadamw.base.types import PyTree
from optadamw.store.layout import (
    OnWhole,
    axes_of,
    divided,
    everywhere,
    in_memory,
    parts_of,
    report_whole,
    spec_of,
)
from optadamw.store.state import State, buffers_in, state_replacing
from optadamw.transforms.transformation import Transformation


def state_sharding(
    tx: optax.GradientTransformation,
    params: PyTree,
    *,
    over: str | Sequence[str] | None = None,
    memory: str | None = None,
    on_whole: OnWhole = "report",
) -> PyTree:
    """Return the sharding of each leaf of the state `tx.init(params)`.

    Each buffer gets the sharding of its parameter, the scales of 8-bit buffers get it
    as far as it divides them, and the small fields are replicated on the mesh.
    Shardings follow from how `init` makes each leaf, and not from equal shapes. The
    result is a tree for `out_shardings` of a jitted `init` or step, and for
    `checkpoint.restore`.

    Args:
      tx: a transformation of this library, or an Optax chain or wrapper around one.
      params: the parameters, or their shapes (`jax.ShapeDtypeStruct`) with shardings.
      over: an axis of the mesh, or a tuple of axes, over which the state is divided
        beyond the parameters, as ZeRO-1 does: along the largest dimension that it
        divides, the last one only if no other fits. It is a layout for a state that
        waits; one that trains there is that of `with_zero1`. None (default): the state
        lies as the parameters.
      memory: the memory of the buffers, such as "pinned_host". Small fields stay on the
        device. None (default): the memory of the parameters.
      on_whole: what happens with a parameter of more than one element of which `over`
        divides no dimension. "report" (default) leaves its buffers as the parameter
        lies, and warns with the paths of such parameters; "raise" raises.

    Returns:
      A tree with the structure of the state and a `jax.sharding.Sharding` in place of
      each array.

    Raises:
      TypeError: `tx` is no transformation, a parameter is no array, or a parameter is
        on no mesh and `over` is given.
      ValueError: a shape has no sharding; the mesh has no axis of this name, or a
        parameter is divided over it already; a device has no memory of this kind. The
        message has the path of the leaf.

    Example:
      >>> import jax, jax.numpy as jnp, optadamw
      >>> from jax.sharding import NamedSharding, PartitionSpec
      >>> mesh = jax.sharding.AbstractMesh((8,), ("data",))
      >>> replicated = NamedSharding(mesh, PartitionSpec())
      >>> w = jax.ShapeDtypeStruct((512, 32), jnp.float32, sharding=replicated)
      >>> tx = optadamw.adamw(1e-3)
      >>> layout = optadamw.state_sharding(tx, {"w": w}, over="data")
      >>> layout.mu["w"].spec[0]
      'data'
      >>> layout.step.is_fully_replicated
      True
    """
    shapes = state_shapes(tx, params, over=over, memory=memory, on_whole=on_whole)
    return jax.tree.map(lambda shape: shape.sharding, shapes)


def state_shapes(
    tx: optax.GradientTransformation,
    params: PyTree,
    *,
    over: str | Sequence[str] | None = None,
    memory: str | None = None,
    on_whole: OnWhole = "report",
) -> PyTree:
    """Return the shape, dtype and sharding of each leaf of the state.

    The result is the target with which Orbax restores a state on any devices, also on
    others than those that saved it.

    Args:
      tx: as for `state_sharding`.
      params: the parameters, or their shapes with shardings.
      over: as for `state_sharding`. Default: None.
      memory: as for `state_sharding`. Default: None.
      on_whole: as for `state_sharding`. Default: "report".

    Returns:
      A tree of `jax.ShapeDtypeStruct` with the structure of the state.

    Raises:
      TypeError, ValueError: as `state_sharding`.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> params = {"w": jnp.ones((4, 2))}
      >>> shapes = optadamw.state_shapes(optadamw.adamw(1e-3), params)
      >>> shapes.mu["w"].shape, shapes.mu["w"].sharding == params["w"].sharding
      ((4, 2), True)
    """
    if not isinstance(tx, optax.GradientTransformation):
        raise no_transformation(tx)
    if on_whole not in get_args(OnWhole):
        raise invalid("on_whole", '"report" or "raise"', on_whole)
    leaves = parameters(params)
    shapes = [
        jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=_sharding(path, array))
        for path, array in zip(leaves.paths, leaves.arrays, strict=True)
    ]
    if over is not None:
        shapes = _further(leaves, shapes, axes_of("over", over), on_whole)
    tree = leaves.treedef.unflatten(shapes)
    mesh = next((m for x in shapes if (m := _mesh(x)) is not None), None)
    if isinstance(tx, Transformation):
        state = tx.init(tree)
    elif mesh is not None:
        state = _on_explicit_axes(tx, leaves, shapes, mesh)
    elif len({x.sharding for x in shapes}) == 1:
        # Wrappers of Optax make arrays of their own, which shapes do not allow outside
        # of a trace.
        bare = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in shapes]
        state = jax.eval_shape(tx.init, leaves.treedef.unflatten(bare))
    else:
        state = tx.init(tree)
    small = next((x.sharding for x in shapes), None)

    def placed(x: Any) -> jax.ShapeDtypeStruct:
        given = getattr(x, "sharding", None)
        if given is None:
            given = small if mesh is None else everywhere(mesh, len(x.shape))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=given)

    state = jax.tree.map(placed, state)
    return state if memory is None else _in_memory(state, memory)


def _sharding(path: str, array: Any) -> Any:
    sharding = getattr(array, "sharding", None)
    if sharding is None:
        raise at_leaf(
            path,
            "its shape has no sharding, so that the layout of its buffers is not "
            "known.",
            "Give it one: jax.ShapeDtypeStruct(shape, dtype, sharding=...).",
        )
    return sharding


def _mesh(x: jax.ShapeDtypeStruct) -> Any:
    return x.sharding.mesh if isinstance(x.sharding, NamedSharding) else None


def _further(
    leaves: Leaves,
    shapes: Sequence[jax.ShapeDtypeStruct],
    axes: Sequence[str],
    on_whole: OnWhole,
) -> list[jax.ShapeDtypeStruct]:
    """Divide the shapes further, and report those that cannot be divided."""
    further, whole = [], []
    for path, x in zip(leaves.paths, shapes, strict=True):
        sharding = divided(path, x.shape, x.sharding, axes)
        if sharding is None and math.prod(x.shape) > 1:
            whole.append(path)
        sharding = sharding or x.sharding
        further.append(jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding))
    report_whole(whole, axes, on_whole)
    return further


def _on_explicit_axes(
    tx: optax.GradientTransformation,
    leaves: Leaves,
    shapes: Sequence[jax.ShapeDtypeStruct],
    mesh: Any,
) -> PyTree:
    """Trace `init` of a foreign chain on explicit axes, which are part of JAX's types.

    Optax makes its buffers as zeros like the parameters. On explicit axes these zeros
    have the sharding of the parameters.
    """
    explicit = AbstractMesh(
        mesh.axis_sizes,
        mesh.axis_names,
        axis_types=(AxisType.Explicit,) * len(mesh.axis_names),
    )
    typed = [
        jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(explicit, x.sharding.spec)
        )
        for x in shapes
    ]
    with use_abstract_mesh(explicit):
        state = jax.eval_shape(tx.init, leaves.treedef.unflatten(typed))

    def back(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        parts = [] if x.sharding is None else parts_of(x.sharding.spec)
        sharding = NamedSharding(mesh, spec_of(mesh, parts))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(back, state)


def _in_memory(tree: PyTree, memory: str) -> PyTree:
    """Move the buffers of each State in a tree to a kind of memory."""

    def moved(node: Any) -> Any:
        if not isinstance(node, State):
            return node
        buffers = buffers_in(node)
        flat = flatten(buffers)
        kept = [beside(*row) for row in zip(flat.paths, flat.arrays, strict=True)]
        return state_replacing(node, flat.treedef.unflatten(kept))

    def beside(path: str, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        with naming(path):
            sharding = in_memory("memory", x.sharding, memory)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(moved, tree, is_leaf=lambda node: isinstance(node, State))
