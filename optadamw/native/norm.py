"""The norm of gradients in one call of C, or in XLA's code where none can run.

The C code adds squares in double, in an order that depends on the sizes of the
gradients alone (`c/norm.h`), and rounds the norm to float32 once. The norm has equal
bits in every program and on any number of threads.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from optadamw.base.types import Array
from optadamw.native.call import divides_no_array, is_exported
from optadamw.native.compiler import Compiler
from optadamw.native.kernel import Refusal
from optadamw.native.library import Target, begin, is_made, source_of_norm

DTYPES = tuple(map(np.dtype, (jnp.float32, jnp.bfloat16, jnp.float16)))
"""The dtypes of gradients whose squares double holds exactly."""

GRADIENTS = 128
"""The most gradients of one call: XLA's time to compile a call grows with the square of
its operands."""


@dataclass(frozen=True)
class Measure:
    """The static part of a norm.

    Attributes:
      target: the function that XLA calls.
      groups: positions of the gradients of each group that has a norm of its own.
      refuses_overflow: whether the norm is infinite if float32 cannot hold its square.
      plain: XLA's code: takes the gradients and returns the norms. It compares and
        hashes by value.
      batch: the first axes of each gradient, over which a caller maps.
    """

    target: str
    groups: tuple[tuple[int, ...], ...]
    refuses_overflow: bool
    plain: Callable[..., Array]
    batch: tuple[int, ...] = ()


def norm_target(
    dtypes: Sequence[np.dtype], compiler: Compiler | Refusal
) -> Target | Refusal:
    """Return the function that measures gradients of some dtypes, or why none can.

    It may still be compiling, beside the kernels of the leaves. Where it fails to, XLA
    measures the gradients.
    """
    if isinstance(compiler, Refusal):
        return compiler
    if not dtypes or not set(dtypes) <= set(DTYPES):
        return Refusal("gradients that are not float32, bfloat16 or float16")
    return _target(compiler)


@cache
def _target(compiler: Compiler) -> Target:
    return begin(source_of_norm(), compiler, "norm").target


def forget() -> None:
    """Forget the functions, so that each is made anew: for tests."""
    _target.cache_clear()


def norms_of(measure: Measure, gradients: Sequence[Array]) -> Array:
    """Return the norm of all gradients, and of each group: float32, [1 + groups]."""
    return _norms.bind(*gradients, measure=measure)


_norms = Primitive("optadamw_norm")


@_norms.def_impl
def _eagerly(*gradients: Any, measure: Measure) -> Array:
    with jax.disable_jit(False):
        return _compiled(measure, gradients)


@_norms.def_abstract_eval
def _result(*gradients: Any, measure: Measure) -> Any:
    shape = (*measure.batch, 1 + len(measure.groups))
    return jax.core.ShapedArray(shape, np.dtype(np.float32))


def _batched(
    gradients: Sequence[Any], axes: Sequence[Any], *, measure: Measure
) -> tuple[Any, int]:
    pairs = list(zip(gradients, axes, strict=True))
    size = next(x.shape[axis] for x, axis in pairs if axis is not None)
    rows = [
        jnp.broadcast_to(x, (size, *x.shape))
        if axis is None
        else jnp.moveaxis(x, axis, 0)
        for x, axis in pairs
    ]
    return norms_of(replace(measure, batch=(size, *measure.batch)), rows), 0


def _differentiated(
    primals: Sequence[Any], tangents: Sequence[Any], *, measure: Measure
) -> tuple[Any, Any]:
    """Differentiate XLA's code; the norm itself keeps its bits."""
    whole = tuple(map(ad.instantiate_zeros, tangents))
    _, tangent = jax.jvp(_plain(measure), tuple(primals), whole)
    return norms_of(measure, primals), tangent


def _plain(measure: Measure) -> Callable[..., Array]:
    """Return XLA's code, mapped over the batch."""
    found = measure.plain
    for _ in measure.batch:
        found = jax.vmap(found)
    return found


batching.primitive_batchers[_norms] = _batched
ad.primitive_jvps[_norms] = _differentiated


def _lowered(context: Any, *gradients: Any, measure: Measure) -> Any:
    """Lower to XLA's own code, for other devices than CPUs."""
    lower = mlir.lower_fun(_plain(measure), multiple_results=False)
    return lower(context, *gradients)


def _lowered_for_cpu(context: Any, *gradients: Any, measure: Measure) -> Any:
    """Lower to calls of C if there are any, unless it is exported or divided."""
    module = context.module_context
    is_whole = divides_no_array(module.axis_context) and not is_exported(module)
    if not is_whole or not is_made(measure.target):
        return _lowered(context, *gradients, measure=measure)
    rows, norms = math.prod(measure.batch), 1 + len(measure.groups)
    shape = (rows, norms, 2)
    sums: Any = mlir.ir_constant(np.zeros(shape, np.uint32))
    of_sums = jax.core.ShapedArray(shape, np.dtype(np.uint32))
    of_norms = context.avals_out[0]
    sizes = np.asarray([rows, norms, measure.refuses_overflow], np.int64)
    lowering = jax.ffi.ffi_lowering(measure.target)
    found: Any = None
    for first in range(0, len(gradients), GRADIENTS):
        part = range(first, min(first + GRADIENTS, len(gradients)))
        members = [(i - first, 0) for i in part]
        for number, group in enumerate(measure.groups, start=1):
            members += [(i - first, number) for i in group if i in part]
        own = context.replace(
            avals_in=[of_sums, *(context.avals_in[i] for i in part)],
            avals_out=[of_sums, of_norms],
        )
        sums, found = lowering(
            own,
            sums,
            *(gradients[i] for i in part),
            sizes=sizes,
            members=np.asarray(members, np.int64).reshape(-1),
        )
    return [found]


mlir.register_lowering(_norms, _lowered)
mlir.register_lowering(_norms, _lowered_for_cpu, platform="cpu")

_compiled = jax.jit(norms_of, static_argnums=0)
