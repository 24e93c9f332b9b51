"""How a leaf is divided over Auto axes, read from the arguments of its program.

While a function is traced, the type of an array over Auto axes does not show how the
array is divided. When the function is lowered, the shardings of its arguments are known
and stand in its module. A leaf has no name there, only its shape: all arguments of its
shape, its parameter and its buffers among them, must be divided alike.

A wrong sharding would change no number, because XLA moves the operands of a `shard_map`
to where its specs want them. It would only cost their transfer.
"""

from typing import Any

from jax.extend.mlir import ir
from jax.extend.mlir.dialects import sdy
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from optadamw.leaf.pallas.layout import Layout


def sharding_by_arguments(
    module: Any, layout: Layout, mesh: AbstractMesh
) -> NamedSharding | None:
    """Return how the arguments of a leaf's shape are divided; None if not alike.

    Args:
      module: the module that is being lowered; its public function is the program.
      layout: the shapes of the leaf and of its scales.
      mesh: the mesh of the leaf.
    """
    found = {
        _spec(attributes, mesh)
        for kind, attributes in _arguments(module)
        if _is_kept(kind, layout)
    }
    spec = found.pop() if len(found) == 1 else None
    return None if spec is None else NamedSharding(mesh, spec)


def _arguments(module: Any) -> list[tuple[Any, Any]]:
    """Return type and attributes of each argument of the public function."""
    for operation in module.body.operations:
        attributes = operation.operation.attributes
        if operation.operation.name != "func.func" or "arg_attrs" not in attributes:
            continue
        visibility = attributes.get("sym_visibility")
        if visibility is None or ir.StringAttr(visibility).value == "public":
            kinds = ir.FunctionType(ir.TypeAttr(attributes["function_type"]).value)
            given = ir.ArrayAttr(attributes["arg_attrs"])
            return list(zip(kinds.inputs, map(ir.DictAttr, given), strict=True))
    return []


def _is_kept(kind: Any, layout: Layout) -> bool:
    """Return whether an argument may be the parameter of a leaf, or a buffer of it.

    They are floats, or integers of 8 or 16 bits: codes, scales and residuals. Others,
    such as a batch of tokens, may have their shape and be divided otherwise.
    """
    if not isinstance(kind, ir.RankedTensorType) or not kind.has_static_shape:
        return False
    shape, element = tuple(kind.shape), kind.element_type
    if isinstance(element, ir.IntegerType) and element.width in (8, 16):
        return shape in (layout.shape, layout.coarse)
    return isinstance(element, ir.FloatType) and shape == layout.shape


def _spec(attributes: Any, mesh: AbstractMesh) -> PartitionSpec | None:
    """Return how an argument is divided; None if it is not known, or not by whole axes.

    An argument without this attribute lies on one device, and XLA may divide it.
    """
    if "sdy.sharding" not in attributes:
        return None
    sharding = sdy.TensorShardingAttr(attributes["sdy.sharding"])
    parts = []
    for dimension in map(sdy.DimensionShardingAttr, sharding.dimension_shardings):
        axes = [sdy.AxisRefAttr(axis) for axis in dimension.axes]
        if any(axis.sub_axis_info is not None for axis in axes):
            return None
        names = tuple(axis.name for axis in axes)
        if not set(names) <= set(mesh.axis_names):
            return None
        parts.append(names)
    return PartitionSpec(*parts)
