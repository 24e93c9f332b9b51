"""Host offload: buffers that lie in the memory of the host between steps.

The buffers of a leaf move to the device just before its rules, and back just after
them, inside the loops of `walk.batches`, so that a skipped step moves nothing.
"""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from optadamw.base.errors import at_leaf
from optadamw.base.memory import DEVICE, HOST, is_on_host, moved
from optadamw.base.types import PyTree
from optadamw.store.layout import in_memory

KIND = "pinned_host"
"""JAX's kind of memory behind `HOST`."""


def on_device(buffers: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return the buffers of a leaf, those in `names` moved to the device."""
    return {k: _buffer_in(x, DEVICE) if k in names else x for k, x in buffers.items()}


def on_host(buffers: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return the buffers of a leaf, those in `names` moved to the host."""
    return {k: to_host(x) if k in names else x for k, x in buffers.items()}


def to_host(buffer: PyTree) -> PyTree:
    """Return a buffer in the memory of the host; of shapes, with its sharding there.

    Raises:
      ValueError: the devices have no memory of their host.
    """
    return _buffer_in(buffer, HOST)


def check_place(path: str, name: str, buffer: PyTree, is_offloaded: bool) -> None:
    """Refuse a buffer in the memory of the host that no `with_offload` moves.

    Raises:
      ValueError: the buffer is in that memory; without the check JAX would refuse a sum
        of it and the gradient, without naming either.
    """
    if is_offloaded:
        return
    for x in jax.tree.leaves(buffer):
        if is_on_host(x):
            raise at_leaf(
                path,
                f"its buffer {name} lies in the memory of the host, and the step "
                "computes on the device.",
                f'Ask for it with adamw(..., offload="{name}"), or move the state with '
                "jax.device_put(state, optadamw.state_sharding(tx, params)).",
            )


def _buffer_in(buffer: PyTree, space: Any) -> PyTree:
    return jax.tree.map(lambda x: _one(x, space), buffer)


def _one(x: Any, space: Any) -> Any:
    if isinstance(x, jax.ShapeDtypeStruct):
        if x.sharding is None:
            return x  # a shape on no device is in no memory
        sharding = in_memory("offload", x.sharding, KIND)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    x = jnp.asarray(x)  # a state that was read with jax.device_get is of NumPy arrays
    if space == HOST and not (isinstance(x, jax.core.Tracer) or is_on_host(x)):
        return jax.device_put(x, in_memory("offload", x.sharding, KIND))
    return moved(x, space)
