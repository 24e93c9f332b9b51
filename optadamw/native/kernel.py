"""The kernel of a leaf function, or the reason why XLA runs it."""

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import invalid
from optadamw.base.memory import is_on_host
from optadamw.base.numerics import is_complex
from optadamw.base.random_bits import Site
from optadamw.leaf.compute import compute
from optadamw.leaf.pallas.devices import device_in
from optadamw.leaf.program import LeafInput, Program
from optadamw.leaf.rows import Blocks, blocks_of, in_rows
from optadamw.native.blocks import NO_BLOCKS, Layout
from optadamw.native.compiler import X86, Compiler, CompilerError, find_compiler
from optadamw.native.flat import LENGTH, Unsupported, flatten
from optadamw.native.library import Making, Target, begin, source_of
from optadamw.native.loops import Loops, loops_of
from optadamw.native.shapes import depends_on_shape

SWITCH = "OPTADAMW_NATIVE"


class Form(NamedTuple):
    """The key of a kernel: a leaf function with the dtypes of its arguments."""

    program: Program
    grad: np.dtype
    param: np.dtype
    buffers: tuple[tuple[str, Any, tuple[np.dtype, ...]], ...]
    """Each buffer with its structure and the dtypes of its arrays: one of the shape of
    the parameter, or codes of this shape and scales."""
    layout: Layout
    scalars: tuple[tuple[tuple[str, np.dtype], ...], ...]
    """Names and dtypes of the scalars of each rule."""
    scale: np.dtype | None


@dataclass(frozen=True)
class Refusal:
    """Why XLA runs a leaf function and no kernel does."""

    reason: str


def kernels_of(
    programs: Sequence[Program],
    leaves: Sequence[LeafInput],
    compiler: Compiler | Refusal,
) -> list[Target | Refusal]:
    """Return the kernels of leaves, which are compiled at once at their first use.

    Args:
      programs: the leaf function of each leaf.
      leaves: arrays, tracers or shapes; only their dtypes and shapes are read.
      compiler: from `usable_compiler`.
    """
    if isinstance(compiler, Refusal):
        return [compiler] * len(leaves)
    default = jnp.result_type(float)
    forms = [_form(*pair, default) for pair in zip(programs, leaves, strict=True)]
    # The default dtype, from which others follow, is in the key.
    keys = {x: (x, compiler, default) for x in forms if isinstance(x, Form)}
    new = [key for key in keys.values() if key not in _kernels]
    _kernels.update(zip(new, _made(new, compiler), strict=True))
    return [x if isinstance(x, Refusal) else _kernels[keys[x]] for x in forms]


_kernels: dict[tuple[Form, Compiler, np.dtype], Target | Refusal] = {}


def _made(
    keys: Sequence[tuple[Form, Compiler, np.dtype]], compiler: Compiler
) -> list[Target | Refusal]:
    """Write the loops of leaf functions; each is compiled while others are written."""
    begun = [_begun(form, compiler) for form, *_ in keys]
    found = [x if isinstance(x, Refusal) else x.wait() for x in begun]
    return [x if isinstance(x, Target | Refusal) else Refusal(str(x)) for x in found]


def _begun(form: Form, compiler: Compiler) -> Making | Refusal:
    try:
        loops = _loops(form)
    except Unsupported as error:
        return Refusal(str(error))
    scalars = len(loops.scalars) - 2 * form.program.draws
    return begin(source_of(loops, scalars), compiler)


def _form(program: Program, given: LeafInput, default: np.dtype) -> Form | Refusal:
    """Return the form of a leaf whose rules compute alike for all shapes."""
    form = form_of(program, given)
    # Without elements there is nothing that a rule could compute otherwise.
    if not isinstance(form, Refusal) and program.foreign and given.like.size:
        if _depends_on_shape(form, given.like.shape, default):
            verb = program.foreign[0].verb
            return Refusal(f"{verb} computes with the shape of a parameter")
    return form


def form_of(program: Program, given: LeafInput) -> Form | Refusal:
    """Return the form of a leaf that is a row of numbers with buffers of its shape."""
    grad, param = given.grad, given.param
    if program.emit != "param" or param is None:
        return Refusal("`update` returns no new parameters")
    device = device_in(given)
    if device is not None and device.platform != "cpu":
        return Refusal(f"it lies on a {device.platform}")
    if program.measures:
        return Refusal('stats="norms" reads all elements')
    for rule in program.rules:
        if rule.sums:
            return Refusal(f"{rule.verb} reads all elements of a parameter")
    if is_complex(param.dtype) or is_complex(grad.dtype):
        return Refusal("a complex parameter or gradient")
    if getattr(param, "weak_type", False):
        return Refusal("the parameter is a Python number")
    if program.draws and param.size > 2**32:
        return Refusal("random bits for more than 2**32 elements")
    blocks = blocks_of(program, param)
    if len(blocks) > 1:
        return Refusal("its buffers have blocks of several forms")
    buffers = []
    for slot in program.slots:
        buffer = given.buffers[slot.name]
        arrays = arrays_of(buffer)
        if len(arrays) == 1 and arrays[0].shape != param.shape:
            return Refusal(f"{slot.name} has another shape than the parameter")
        if any(map(is_on_host, arrays)):
            return Refusal(f"{slot.name} lies in the memory of the host")
        dtypes = tuple(np.dtype(x.dtype) for x in arrays)
        buffers.append((slot.name, jax.tree.structure(buffer), dtypes))
    scalars = tuple(
        tuple((name, np.dtype(x.dtype)) for name, x in sorted(row.items()))
        for row in given.scalars
    )
    scale = None if given.scale is None else np.dtype(given.scale.dtype)
    if program.sharding is not None:
        program = replace(program, sharding=None)
    return Form(
        program,
        np.dtype(grad.dtype),
        np.dtype(param.dtype),
        tuple(buffers),
        _layout(blocks),
        scalars,
        scale,
    )


def arrays_of(buffer: Any) -> list[Any]:
    """Return the arrays of a buffer in the order in which a kernel gets them."""
    return jax.tree.leaves(buffer)


def scalars_of(given: LeafInput) -> list[Any]:
    """Return the scalars of a leaf in the order in which its kernel reads them."""
    found = [row[name] for row in given.scalars for name in sorted(row)]
    if given.scale is not None:
        found.append(given.scale)
    if given.site is not None:
        found.append(given.site.key)
    return found


def why_not_default() -> str | None:
    """Return why steps that do not choose use no kernels; None: they use them.

    Kernels are the default where they were measured, and where a step has one device:
    XLA divides its own code over several, and its passes are one program there.

    Raises:
      ValueError: the variable that switches kernels has another value than 0 and 1.
    """
    if kernels_switch() == "1":
        return None
    if jax.default_backend() != "cpu":
        return f"the default device is a {jax.default_backend()}"
    if jax.device_count() > 1:
        return f"{jax.device_count()} devices"
    if platform.machine() not in X86:
        return f"kernels are on by default on x86-64 only: {platform.machine()}"
    compiler = usable_compiler()
    return compiler.reason if isinstance(compiler, Refusal) else None


def usable_compiler() -> Compiler | Refusal:
    """Return the compiler of kernels, or why kernels are not compiled.

    Raises:
      ValueError: the variable that switches kernels has another value than 0 and 1.
    """
    if kernels_switch() == "0":
        return Refusal(f"{SWITCH}=0")
    try:
        return find_compiler()
    except CompilerError as error:
        return Refusal(str(error))


def kernels_switch() -> str:
    """Return "0", "1", or "" for a variable that is not set: kernels on or off.

    Raises:
      ValueError: it has another value, such as "off", which must not mean "on".
    """
    value = os.environ.get(SWITCH, "")
    if value not in ("", "0", "1"):
        remedy = "0 switches all kernels off, 1 switches them on."
        raise invalid(SWITCH, "0, 1 or not set", value, remedy)
    return value


def forget() -> None:
    """Forget all kernels, so that each is made anew: for tests."""
    _kernels.clear()


def _layout(found: Iterable[Blocks]) -> Layout:
    """Return the layout of all leaves with such blocks."""
    for blocks in found:
        # Blocks of one element are no blocks.
        if blocks.size > 1:
            return Layout(blocks.size, is_last=blocks.stride == 1)
    return NO_BLOCKS


@cache
def _depends_on_shape(form: Form, shape: tuple[int, ...], default: np.dtype) -> bool:
    """Return whether rules compute otherwise for the shape of a leaf than in a kernel.

    Rules of the library do not; tests/native/test_shapes.py holds it.
    """
    del default
    scalars: Any = tuple(
        {name: jax.ShapeDtypeStruct((), dtype) for name, dtype in row}
        for row in form.scalars
    )
    param = jax.ShapeDtypeStruct(shape, form.param)
    given = LeafInput(param, param, {}, scalars)
    return depends_on_shape(form.program, given, (LENGTH, form.layout.block))


def _loops(form: Form) -> Loops:
    """Trace the leaf function for a leaf of any length, and write its loops."""
    numbers = [dtype for row in form.scalars for _, dtype in row]
    if form.scale is not None:
        numbers.append(form.scale)
    if form.program.draws:
        # Key, leaf, and the index of the leaf's first element in one of several parts.
        numbers += [np.dtype(np.uint32), np.dtype(np.int32), np.dtype(np.uint32)]
    block = form.layout.block
    whole, of_blocks = (LENGTH, block), (LENGTH, 1)
    arrays = [(whole, form.grad), (whole, form.param)]
    # The scales of a buffer in blocks follow its codes.
    for _, _, dtypes in form.buffers:
        arrays += zip((whole, of_blocks), dtypes, strict=False)
    # Barriers put XLA's passes over a leaf in order; a kernel makes one pass.
    program = replace(in_rows(form.program, block), is_tiled=True)

    def flat(*values: Any) -> tuple[Any, ...]:
        scalars, arguments = list(values[: len(numbers)]), values[len(numbers) : -1]
        site = None
        if program.draws:
            first, leaf, key = (scalars.pop() for _ in range(3))
            site = Site(key, leaf, place=values[-1], first=first)
        scale = None if form.scale is None else scalars.pop()
        rest = iter(scalars)
        rows = tuple({name: next(rest) for name, _ in row} for row in form.scalars)
        grad, param, *held = arguments
        parts = iter(held)
        buffers = {
            name: structure.unflatten([next(parts) for _ in dtypes])
            for name, structure, dtypes in form.buffers
        }
        made = compute(program, LeafInput(grad, param, buffers, rows, scale, site))
        kept = [x for name, *_ in form.buffers for x in arrays_of(made.buffers[name])]
        return (made.output, *kept)

    shapes = [jax.ShapeDtypeStruct((), dtype) for dtype in numbers]
    shapes += [jax.ShapeDtypeStruct(*array) for array in arrays]
    shapes.append(jax.ShapeDtypeStruct(whole, np.uint32))
    closed = jax.make_jaxpr(flat)(*shapes)
    flattened = flatten(closed, block, has_places=True)
    inputs = [dtype for _, dtype in arrays]
    scales = [i for i, (shape, _) in enumerate(arrays) if shape == of_blocks]
    loops = loops_of(flattened, numbers, inputs, form.layout, scales)
    if list(loops.outputs) != inputs[1:]:
        raise Unsupported("a result has another dtype than what it replaces")
    return loops
