"""One operation that each platform lowers in its own way.

`jax.lax.platform_dependent` traces the function of every platform, also those for which
a program is never lowered: a kernel takes as long to trace as the leaf function. This
primitive holds the traced leaf function, and traces a kernel when it is lowered for a
TPU or an NVIDIA GPU.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import batching, mlir
from jax.sharding import AbstractDevice, AbstractMesh, NamedSharding

from optadamw.leaf.compute import compute
from optadamw.leaf.pallas.arguments import sharding_by_arguments
from optadamw.leaf.pallas.devices import (
    auto_mesh,
    device_in,
    device_of,
    is_single,
    sharding_of,
)
from optadamw.leaf.pallas.kernel import layout_of, run_tiles
from optadamw.leaf.pallas.layout import Layout
from optadamw.leaf.pallas.shards import divides, on_shards
from optadamw.leaf.pallas.tiles import Target
from optadamw.leaf.program import LeafInput, LeafOutput, Program


@dataclass(frozen=True)
class Kernel:
    """How the leaf function of an operation is run as a kernel."""

    program: Program
    structure: Any
    """The structure of `LeafInput`, whose arrays are the operands."""
    targets: tuple[Target, ...]
    """The compilers that run the leaf as a kernel."""
    layout: Layout
    """How the arrays of the leaf lie."""
    sharding: NamedSharding | None
    """The sharding of the leaf over devices; None: it is not known, or cuts blocks."""
    auto: AbstractMesh | None
    """The mesh of Auto axes over which the leaf is divided in a way that is not known;
    None: there is none."""
    device: AbstractDevice | None
    """The device for which the step is lowered; None: one of this process."""
    batches: tuple[tuple[Any, ...], ...] = ()
    """The batched axes of the operands, for each `vmap` around the leaf function."""

    def sharding_in(self, context: Any) -> NamedSharding | None:
        """Return the sharding of the leaf, as far as a lowering shows it."""
        if self.batches or self.auto is None:
            return None if self.batches else self.sharding
        found = sharding_by_arguments(context.module, self.layout, self.auto)
        return found if found is not None and divides(self.layout, found) else None

    def run(
        self,
        target: Target,
        whole: tuple[int, ...] | None,
        starts: Any,
        *operands: Any,
    ) -> list[Any]:
        """Run the kernel on a leaf, or on one of its shards."""

        def tiled(*flat: Any) -> list[Any]:
            given = jax.tree.unflatten(self.structure, flat)
            made = run_tiles(self.program, target, False, given, whole, starts)
            return jax.tree.leaves(made)

        function: Any = tiled
        for axes in self.batches:
            function = jax.vmap(function, in_axes=axes)
        return list(function(*operands))


@partial(jax.jit, static_argnums=(0, 1))
def run_by_platform(
    program: Program, targets: tuple[Target, ...], given: LeafInput
) -> LeafOutput:
    """Run `compute`: as a kernel if it is lowered for one of the targets."""
    operands, structure = jax.tree.flatten(given)
    plain, shapes = jax.make_jaxpr(partial(compute, program), return_shape=True)(given)
    assert given.param is not None
    layout = layout_of(program, given.param.shape)
    sharding = sharding_of(program, given)
    auto = auto_mesh(given) if sharding is None else None
    if sharding is not None and not divides(layout, sharding):
        sharding = None
    device = device_in(given)
    kernel = Kernel(program, structure, targets, layout, sharding, auto, device)
    open_program = replace(program, is_tiled=True)

    @jax.custom_jvp
    def leaf(*values: Any) -> tuple[Any, ...]:
        return tuple(leaf_p.bind(*values, plain=plain, kernel=kernel))

    @leaf.defjvp
    def jvp(primals: Any, tangents: Any) -> Any:
        # A kernel cannot be differentiated. Without the barriers between parameter and
        # buffers, which jax 0.12 cannot transpose beside constants.
        def whole(*values: Any) -> tuple[Any, ...]:
            made = compute(open_program, jax.tree.unflatten(structure, values))
            return tuple(jax.tree.leaves(made))

        return jax.jvp(whole, primals, tangents)

    results = leaf(*operands)
    made: LeafOutput = jax.tree.unflatten(jax.tree.structure(shapes), results)
    return made


leaf_p = Primitive("optadamw_leaf")
leaf_p.multiple_results = True


@leaf_p.def_impl
def _run(*operands: Any, plain: ClosedJaxpr, **_: Any) -> Any:
    return jaxpr_as_fun(plain)(*operands)


@leaf_p.def_abstract_eval
def _shapes(*operands: Any, plain: ClosedJaxpr, **_: Any) -> Any:
    del operands
    return list(plain.out_avals)


def _batched(operands: Any, axes: Any, *, plain: ClosedJaxpr, kernel: Kernel) -> Any:
    axes = tuple(axes)
    whole = jax.make_jaxpr(jax.vmap(jaxpr_as_fun(plain), in_axes=axes))(*operands)
    kernel = replace(kernel, batches=(*kernel.batches, axes))
    results = leaf_p.bind(*operands, plain=whole, kernel=kernel)
    return results, (0,) * len(results)


def _lowered(target: Target) -> Any:
    def rule(
        ctx: Any, *operands: Any, plain: ClosedJaxpr, kernel: Kernel, **_: Any
    ) -> Any:
        run: Any = partial(kernel.run, target)
        if target not in kernel.targets:
            run = None
        elif is_single(ctx.module_context):
            run = partial(run, None, None)
        elif (sharding := kernel.sharding_in(ctx.module_context)) is not None:
            run = partial(on_shards, run, kernel.layout, sharding, plain.out_avals)
        else:
            run = None
        if run is not None:
            with device_of(target, kernel.device) as is_known:
                if is_known:
                    return mlir.lower_fun(run, multiple_results=True)(ctx, *operands)
        return _plainly(ctx, *operands, plain=plain)

    return rule


def _plainly(ctx: Any, *operands: Any, plain: ClosedJaxpr, **_: Any) -> Any:
    return mlir.lower_fun(jaxpr_as_fun(plain), multiple_results=True)(ctx, *operands)


batching.primitive_batchers[leaf_p] = _batched
mlir.register_lowering(leaf_p, _plainly)
mlir.register_lowering(leaf_p, _lowered("tpu"), platform="tpu")
mlir.register_lowering(leaf_p, _lowered("gpu"), platform="cuda")
