"""Call kernels on many leaves, or run XLA's code for them where no kernel can run.

All calls of a pass are one primitive of JAX. On one CPU it is lowered to the calls of
kernels, and on several to a `shard_map` with this primitive inside. Its other forms are
those of XLA's own code for the same pass, which is traced only if it is needed: under
`vmap` and derivatives, on other devices, in an exported module, and for arrays of which
it is not known how they are divided over devices.
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

OnShards = Callable[[Any], Plain | str]
"""From a module to the function of a pass whose arrays are divided over devices; or why
kernels cannot run all of its leaves, if they must."""


@dataclass(frozen=True)
class Call:
    """One call: which kernel, for which leaves."""

    target: str
    operands: tuple[int, ...]
    """The operands of the pass that the call has: whether the leaves are changed at
    all, a bool; scalars; arrays that are only computed before the call; the gradients,
    the parameters, and each buffer of its leaves."""
    leaves: int
    held: int
    """Arrays of each leaf that are overwritten: the parameter and its buffers."""
    scalars: tuple[int, ...]
    """For each leaf the operands of the call that are its scalars."""
    positions: tuple[int, ...]
    """The position of each leaf in its tree."""
    inner: tuple[int, ...]
    """The elements of each leaf between two neighbours in a block; 1 without blocks."""
    parts: tuple[int, ...] = ()
    """How leaves that draw random bits are cut (`shards.as_numbers`); empty (default):
    they are whole."""


@dataclass(frozen=True)
class Calls:
    """The static part of a pass by kernels."""

    calls: tuple[Call, ...]
    held: int
    """How many of the last operands are overwritten: those of all calls."""
    plain: Plain
    """XLA's code: takes the same operands and returns the same results. It compares
    and hashes by value."""
    is_forced: bool = False
    """Whether a module in which no kernel can run is refused."""
    on_shards: OnShards | None = None
    """Returns the pass on shards; None (default): the arrays lie on no mesh. It
    compares and hashes by value."""


@partial(jax.jit, static_argnums=0)
def run(calls: Calls, operands: Sequence[Any]) -> list[Any]:
    """Return the new parameters and buffers of the leaves of a pass.

    Args:
      calls: the static part.
      operands: whether the leaves are changed at all, a bool; scalars; gradients; and
        last the arrays that are overwritten, in the order of the results.
    """
    return _native_step.bind(*operands, calls=calls)


_native_step = Primitive("optadamw_step")
_native_step.multiple_results = True


@_native_step.def_impl
def _without_jit(*operands: Any, calls: Calls) -> Sequence[Any]:
    # `run` is jitted, so that this is called under `jax.disable_jit` alone.
    return calls.plain(*operands)


@_native_step.def_abstract_eval
def _results(*avals: Any, calls: Calls) -> list[Any]:
    return list(avals[len(avals) - calls.held :])


def _batched(
    operands: Sequence[Any], axes: Sequence[Any], *, calls: Calls
) -> tuple[Sequence[Any], Sequence[int]]:
    results = jax.vmap(calls.plain, in_axes=tuple(axes))(*operands)
    return results, [0] * len(results)


def _differentiated(
    primals: Sequence[Any], tangents: Sequence[Any], *, calls: Calls
) -> tuple[Any, Any]:
    moving = [i for i, t in enumerate(tangents) if not isinstance(t, ad.Zero)]

    def of_moving(*values: Any) -> Sequence[Any]:
        operands = list(primals)
        for i, value in zip(moving, values, strict=True):
            operands[i] = value
        return calls.plain(*operands)

    return jax.jvp(
        of_moving, [primals[i] for i in moving], [tangents[i] for i in moving]
    )


batching.primitive_batchers[_native_step] = _batched
ad.primitive_jvps[_native_step] = _differentiated


def _lowered(context: Any, *operands: Any, calls: Calls) -> Any:
    """Lower to XLA's own code, for other devices than CPUs.

    Raises:
      ValueError: kernels were asked for.
    """
    if calls.is_forced and not is_exported(context.module_context):
        platforms = "/".join(context.module_context.platforms)
        raise _refused(f"it is compiled for {platforms}")
    return mlir.lower_fun(calls.plain)(context, *operands)


def _lowered_for_cpu(context: Any, *operands: Any, calls: Calls) -> Any:
    """Lower to calls of kernels, unless the module is exported.

    Raises:
      ValueError: kernels were asked for, and it is not known how XLA divides the arrays
        over devices.
    """
    module = context.module_context
    if is_exported(module):
        return mlir.lower_fun(calls.plain)(context, *operands)
    if not divides_no_array(module.axis_context):
        function: Any = "XLA divides its arrays over devices"
        if calls.on_shards is not None and not is_partly_manual(module.axis_context):
            function = calls.on_shards(module.module)
        if isinstance(function, str):
            if calls.is_forced:
                raise _refused(function)
            function = calls.plain
        return mlir.lower_fun(function)(context, *operands)
    first = len(operands) - calls.held
    results: list[Any] = [None] * calls.held
    for call in calls.calls:
        places = call.operands[len(call.operands) - call.leaves * call.held :]
        made = _call_of(context, call, [i - first for i in places], operands)
        for i, value in zip(places, made, strict=True):
            results[i - first] = value
    return results


def _call_of(
    context: Any, call: Call, results: Sequence[int], operands: Sequence[Any]
) -> Any:
    """Return the results of one call, which take the place of its last operands."""
    own = context.replace(
        avals_in=[context.avals_in[i] for i in call.operands],
        avals_out=[context.avals_out[i] for i in results],
    )
    first = len(call.operands) - len(results)
    aliases = {first + i: i for i in range(len(results))}
    lowering = jax.ffi.ffi_lowering(call.target, operand_output_aliases=aliases)
    return lowering(
        own,
        *[operands[i] for i in call.operands],
        scalars=np.asarray(call.scalars, np.int64),
        positions=np.asarray(call.positions, np.int64),
        inner=np.asarray(call.inner, np.int64),
        parts=np.asarray(call.parts, np.int64),
    )


def _refused(what: str) -> ValueError:
    return ValueError(
        f'kernel="native" cannot run this step in a kernel: {what}. Use kernel="auto", '
        "call tx.jit_step, or run the step on one CPU or inside jax.shard_map over "
        "all axes."
    )


def is_exported(module: Any) -> bool:
    """Return whether a module leaves the process, which knows the kernels."""
    return bool(module.lowering_parameters.for_export)


def divides_no_array(axes: Any) -> bool:
    """Return whether the arrays of a module are whole.

    Inside `jax.shard_map` over all axes of several devices, a module has the arrays of
    one device. (A kernel of Pallas may run only if `shard_map` names all axes: see
    `optadamw.leaf.pallas.devices.is_single`.)
    """
    if hasattr(axes, "num_devices"):
        return axes.num_devices == 1
    if hasattr(axes, "manual_axes"):
        others = set(axes.mesh.axis_names) - set(axes.manual_axes)
        return all(axes.mesh.shape[name] == 1 for name in others)
    return False


def is_partly_manual(axes: Any) -> bool:
    """Return whether a module is inside a `jax.shard_map` over some axes alone."""
    return bool(getattr(axes, "manual_axes", ()))


mlir.register_lowering(_native_step, _lowered)
mlir.register_lowering(_native_step, _lowered_for_cpu, platform="cpu")
