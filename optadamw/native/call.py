"""Call a kernel on many leaves, or run XLA's code for them where no kernel can run.

The call is a primitive of JAX. On one CPU it is lowered to a call of the kernel. Its
other forms are those of XLA's own code for the same leaves, which is traced only if it
is needed: under `vmap` and derivatives, on other devices, in an exported module, and
where XLA divides the arrays over devices.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Plain = Callable[..., Sequence[Any]]


@dataclass(frozen=True)
class Call:
    """The static part of a call: which kernel, for which leaves."""

    target: str
    leaves: int
    held: int
    """Arrays of each leaf that are overwritten: the parameter and its buffers."""
    scalars: tuple[int, ...]
    """For each leaf the operands that are its scalars."""
    positions: tuple[int, ...]
    """The position of each leaf in its tree."""
    inner: tuple[int, ...]
    """The elements of each leaf between two neighbours in a block; 1 without blocks."""
    plain: Plain
    """XLA's code: takes the same operands and returns the same results. It compares
    and hashes by value."""
    is_forced: bool = False
    """Whether a module in which the kernel cannot run is refused."""


@partial(jax.jit, static_argnums=0)
def run(call: Call, operands: Sequence[Any]) -> list[Any]:
    """Return the new parameters and buffers of the leaves of a call.

    Args:
      call: the static part.
      operands: whether the leaves are changed at all, a bool; scalars; the gradients,
        the parameters, and each buffer of all leaves.
    """
    return _native_step.bind(*operands, call=call)


_native_step = Primitive("optadamw_step")
_native_step.multiple_results = True


def _held(call: Call, operands: Sequence[Any]) -> Sequence[Any]:
    return operands[len(operands) - call.leaves * call.held :]


@_native_step.def_impl
def _without_jit(*operands: Any, call: Call) -> Sequence[Any]:
    # `run` is jitted, so that this is called under `jax.disable_jit` alone.
    return call.plain(*operands)


@_native_step.def_abstract_eval
def _results(*avals: Any, call: Call) -> list[Any]:
    return list(_held(call, avals))


def _batched(
    operands: Sequence[Any], axes: Sequence[Any], *, call: Call
) -> tuple[Sequence[Any], Sequence[int]]:
    results = jax.vmap(call.plain, in_axes=tuple(axes))(*operands)
    return results, [0] * len(results)


def _differentiated(
    primals: Sequence[Any], tangents: Sequence[Any], *, call: Call
) -> tuple[Any, Any]:
    moving = [i for i, t in enumerate(tangents) if not isinstance(t, ad.Zero)]

    def of_moving(*values: Any) -> Sequence[Any]:
        operands = list(primals)
        for i, value in zip(moving, values, strict=True):
            operands[i] = value
        return call.plain(*operands)

    return jax.jvp(
        of_moving, [primals[i] for i in moving], [tangents[i] for i in moving]
    )


batching.primitive_batchers[_native_step] = _batched
ad.primitive_jvps[_native_step] = _differentiated


def _lowered(context: Any, *operands: Any, call: Call) -> Any:
    """Lower to XLA's own code, for other devices than CPUs.

    Raises:
      ValueError: the call must be a kernel.
    """
    if call.is_forced and not _is_exported(context.module_context):
        platforms = "/".join(context.module_context.platforms)
        raise _refused(f"it is compiled for {platforms}")
    return mlir.lower_fun(call.plain)(context, *operands)


def _lowered_for_cpu(context: Any, *operands: Any, call: Call) -> Any:
    """Lower to a call of the kernel, unless the module is exported or divided.

    Raises:
      ValueError: the call must be a kernel, and XLA divides its arrays over devices.
    """
    module = context.module_context
    if _is_exported(module) or not _is_of_one_device(module.axis_context):
        if call.is_forced and not _is_exported(module):
            raise _refused("XLA divides its arrays over devices")
        return mlir.lower_fun(call.plain)(context, *operands)
    first = len(operands) - call.leaves * call.held
    aliases = {first + i: i for i in range(call.leaves * call.held)}
    lowering = jax.ffi.ffi_lowering(call.target, operand_output_aliases=aliases)
    return lowering(
        context,
        *operands,
        scalars=np.asarray(call.scalars, np.int64),
        positions=np.asarray(call.positions, np.int64),
        inner=np.asarray(call.inner, np.int64),
    )


def _refused(what: str) -> ValueError:
    return ValueError(
        f'kernel="native" cannot run this step in a kernel: {what}. Use kernel="auto", '
        "or run the step on one CPU or inside jax.shard_map over all axes."
    )


def _is_exported(module: Any) -> bool:
    return bool(module.lowering_parameters.for_export)


def _is_of_one_device(axes: Any) -> bool:
    """Return whether the arrays of a module are whole.

    Inside `jax.shard_map` over all axes, a module has the arrays of one device.
    """
    if hasattr(axes, "num_devices"):
        return axes.num_devices == 1
    if hasattr(axes, "manual_axes"):
        return axes.mesh.size == 1 or set(axes.manual_axes) == set(axes.mesh.axis_names)
    return False


mlir.register_lowering(_native_step, _lowered)
mlir.register_lowering(_native_step, _lowered_for_cpu, platform="cpu")
