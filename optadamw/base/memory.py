"""The two memories of an array: the device's and its host's."""

from typing import Any

import jax

DEVICE, HOST = jax.memory.Space.Device, jax.memory.Space.Host


def is_on_host(x: Any) -> bool:
    """Return whether `x` is an array, or a tracer of one, in the memory of the host."""
    return isinstance(x, jax.Array) and jax.typeof(x).memory_space == HOST


def moved(x: Any, space: Any) -> Any:
    """Return an array in a memory; an array that is there already as it is."""
    return x if jax.typeof(x).memory_space == space else jax.device_put(x, space)
