"""The kernel of a leaf function, or the reason why XLA runs it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.memory import is_on_host
from optadamw.base.numerics import is_complex
from optadamw.base.random_bits import Site
from optadamw.leaf.compute import compute
from optadamw.leaf.program import LeafInput, Program
from optadamw.native.cache import CacheError
from optadamw.native.compiler import Compiler, CompilerError, find_compiler
from optadamw.native.flat import LENGTH, Unsupported, flatten
from optadamw.native.library import Target, load, source_of
from optadamw.native.loops import Loops, loops_of

SWITCH = "OPTADAMW_NATIVE"


class Form(NamedTuple):
    """The key of a kernel: a leaf function with the dtypes of its arguments."""

    program: Program
    grad: np.dtype
    param: np.dtype
    buffers: tuple[tuple[str, np.dtype], ...]
    scalars: tuple[tuple[tuple[str, np.dtype], ...], ...]
    """Names and dtypes of the scalars of each rule."""
    scale: np.dtype | None


@dataclass(frozen=True)
class Refusal:
    """Why XLA runs a leaf function and no kernel does."""

    reason: str


def kernel_of(
    program: Program, given: LeafInput, compiler: Compiler | Refusal
) -> Target | Refusal:
    """Return the kernel of a leaf, compiled at its first use.

    Args:
      program: the leaf function.
      given: arrays, tracers or shapes; only their dtypes and shapes are read.
      compiler: from `usable_compiler`.
    """
    if isinstance(compiler, Refusal):
        return compiler
    form = form_of(program, given)
    if isinstance(form, Refusal):
        return form
    return _kernel(form, compiler, jnp.result_type(float))


def form_of(program: Program, given: LeafInput) -> Form | Refusal:
    """Return the form of a leaf that is a row of numbers with buffers of its shape."""
    grad, param = given.grad, given.param
    if program.emit != "param" or param is None:
        return Refusal("`update` returns no new parameters")
    if program.measures:
        return Refusal('stats="norms" reads all elements')
    for rule in program.rules:
        if rule.sums:
            return Refusal(f"{rule.verb} reads all elements of a parameter")
    if is_complex(param.dtype) or is_complex(grad.dtype):
        return Refusal("a complex parameter or gradient")
    if getattr(param, "weak_type", False):
        return Refusal("the parameter is a Python number")
    buffers = []
    for slot in program.slots:
        buffer = given.buffers[slot.name]
        if getattr(buffer, "shape", None) != param.shape:
            return Refusal(f"{slot.name} is kept in blocks")
        if is_on_host(buffer):
            return Refusal(f"{slot.name} lies in the memory of the host")
        buffers.append((slot.name, np.dtype(buffer.dtype)))
    scalars = tuple(
        tuple((name, np.dtype(x.dtype)) for name, x in sorted(row.items()))
        for row in given.scalars
    )
    scale = None if given.scale is None else np.dtype(given.scale.dtype)
    return Form(
        program,
        np.dtype(grad.dtype),
        np.dtype(param.dtype),
        tuple(buffers),
        scalars,
        scale,
    )


def scalars_of(given: LeafInput) -> list[Any]:
    """Return the scalars of a leaf in the order in which its kernel reads them."""
    found = [row[name] for row in given.scalars for name in sorted(row)]
    if given.scale is not None:
        found.append(given.scale)
    if given.site is not None:
        found.append(given.site.key)
    return found


def is_default() -> bool:
    """Return whether transformations that do not choose use kernels."""
    return os.environ.get(SWITCH) == "1"


def usable_compiler() -> Compiler | Refusal:
    """Return the compiler of kernels, or why kernels are not compiled."""
    if os.environ.get(SWITCH) == "0":
        return Refusal(f"{SWITCH}=0")
    try:
        return find_compiler()
    except CompilerError as error:
        return Refusal(str(error))


def forget() -> None:
    """Forget all kernels, so that each is made anew: for tests."""
    _kernel.cache_clear()


@cache
def _kernel(form: Form, compiler: Compiler, default: np.dtype) -> Target | Refusal:
    """Return a kernel; the default dtype, from which others follow, is in the key."""
    del default
    try:
        loops = _loops(form)
        return load(source_of(loops, len(loops.scalars) - form.program.draws), compiler)
    except Unsupported as error:
        return Refusal(str(error))
    except (CompilerError, CacheError) as error:
        return Refusal(str(error))


def _loops(form: Form) -> Loops:
    """Trace the leaf function for a leaf of any length, and write its loops."""
    numbers = [dtype for row in form.scalars for _, dtype in row]
    if form.scale is not None:
        numbers.append(form.scale)
    if form.program.draws:
        numbers += [np.dtype(np.uint32), np.dtype(np.int32)]
    arrays = [form.grad, form.param, *(dtype for _, dtype in form.buffers)]
    # Barriers put XLA's passes over a leaf in order; a kernel makes one pass.
    program = replace(form.program, is_tiled=True)

    def flat(*values: Any) -> tuple[Any, ...]:
        scalars, arguments = list(values[: len(numbers)]), values[len(numbers) :]
        site = None
        if program.draws:
            leaf = scalars.pop()
            site = Site(scalars.pop(), leaf)
        scale = None if form.scale is None else scalars.pop()
        rest = iter(scalars)
        rows = tuple({name: next(rest) for name, _ in row} for row in form.scalars)
        names = [name for name, _ in form.buffers]
        grad, param, *held = arguments
        buffers: Mapping[str, Any] = dict(zip(names, held, strict=True))
        made = compute(program, LeafInput(grad, param, buffers, rows, scale, site))
        return (made.output, *(made.buffers[name] for name in names))

    shapes = [jax.ShapeDtypeStruct((), dtype) for dtype in numbers]
    shapes += [jax.ShapeDtypeStruct((LENGTH,), dtype) for dtype in arrays]
    closed = jax.make_jaxpr(flat)(*shapes)
    loops = loops_of(flatten(closed), numbers, arrays)
    if list(loops.outputs) != arrays[1:]:
        raise Unsupported("a result has another dtype than what it replaces")
    return loops
