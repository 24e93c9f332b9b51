"""Over which devices a leaf is divided, as far as it is known when it is traced."""

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
from jax.sharding import (
    AbstractDevice,
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    use_abstract_mesh,
)

from optadamw.leaf.pallas.tiles import Target
from optadamw.leaf.program import LeafInput, Program

TARGETS: dict[str | None, tuple[Target, ...]] = {
    None: ("tpu", "gpu"),
    "tpu": ("tpu",),
    "cuda": ("gpu",),
    "gpu": ("gpu",),
}
"""The compilers of each platform; None: it is not known before lowering."""

TRITON = "jax.experimental.pallas.triton"
"""The module of the compiler for GPUs, which JAX plans to remove."""


def device_in(given: LeafInput) -> AbstractDevice | None:
    """Return the kind of device on which a leaf lies, if its arrays show it."""
    mesh = mesh_of(given)
    return None if mesh.empty else mesh.abstract_device


@contextmanager
def device_of(target: Target, device: AbstractDevice | None) -> Iterator[bool]:
    """Name the device to the compiler of a kernel; the value is whether it has one.

    Triton compiles for one kind of GPU. Without a GPU in this process, as when a step
    is exported, it must be told which.
    """
    if target == "tpu":
        yield True
        return
    named = device or jax.sharding.get_abstract_mesh().abstract_device
    has_compiler = importlib.util.find_spec(TRITON) is not None
    if not has_compiler or (named is None and jax.default_backend() != "gpu"):
        yield False
        return
    with ExitStack() as stack:
        if device is not None:
            mesh = AbstractMesh((), (), abstract_device=device)
            stack.enter_context(use_abstract_mesh(mesh))
        # Whoever did not ask for kernels cannot follow the advice to change compilers.
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated")
        yield True


def sharding_of(program: Program, given: LeafInput) -> NamedSharding | None:
    """Return the sharding of a leaf; None if it is not known when it is traced.

    Explicit axes have it in the type of the array. For Auto axes the program holds the
    one that the user stated.
    """
    kinds = kinds_of(mesh_of(given))
    if kinds == {AxisType.Explicit}:
        found: NamedSharding = jax.typeof(given.param).sharding
        return found
    return None if AxisType.Manual in kinds else program.sharding


def auto_mesh(given: LeafInput) -> AbstractMesh | None:
    """Return the mesh of a leaf if all of its axes are Auto."""
    mesh = mesh_of(given)
    return mesh if kinds_of(mesh) == {AxisType.Auto} else None


def is_single(context: Any) -> bool:
    """Return whether a lowering is for one device, or for one shard of `shard_map`.

    JAX refuses a kernel for TPUs in a `shard_map` that leaves out an axis of the mesh,
    also an axis of one device.
    """
    axes = context.axis_context
    manual = getattr(axes, "manual_axes", None)
    if manual is not None:
        return set(manual) == set(axes.mesh.axis_names)
    return bool(getattr(axes, "num_devices", 1) == 1)


def kinds_of(mesh: Mesh | AbstractMesh) -> set[AxisType]:
    """Return the types of the axes of more than one device."""
    wide = zip(mesh.axis_types, mesh.axis_sizes, strict=True)
    return {kind for kind, size in wide if size > 1}


def mesh_of(given: LeafInput) -> AbstractMesh:
    """Return the mesh of a leaf, empty if its arrays lie on none."""
    own, other = (jax.typeof(x).sharding.mesh for x in (given.param, given.grad))
    return other if own.empty else own
