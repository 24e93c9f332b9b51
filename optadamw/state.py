"""The state of an optimizer: one named record, the same for every chain."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from optadamw.aliases import Array, PyTree


class State(NamedTuple):
    """What a transformation carries from step to step.

    The fields are the same whatever the chain and whether a hyperparameter is a
    number or a schedule; a buffer that the chain does not keep is None and holds no
    arrays. Buffers are trees like the parameters, float32 unless an option says
    otherwise (float64 for float64 parameters).
    """

    step: Array
    """Optimizer steps taken, int32, saturating at 2**31 - 1."""
    mu: PyTree = None
    """First moment: the running mean of the gradients."""
    nu: PyTree = None
    """Second moment: the running mean of their squares."""
    nu_max: PyTree = None
    """AMSGrad: the largest second moment so far."""
    ema: PyTree = None
    """The running average of the parameters."""


SLOTS = tuple(name for name in State._fields if name != "step")


def first_step(params: tuple[Any, ...]) -> Any:
    """A zero counter that lives where the parameters live.

    With parameters on a mesh it is replicated over that mesh, so that
    its sharding is the same before and after the first step.
    """
    if any(isinstance(p, jax.ShapeDtypeStruct) for p in params):
        return jax.ShapeDtypeStruct((), jnp.int32)
    for param in params:
        if isinstance(param, jax.core.Tracer):
            break
        sharding = getattr(param, "sharding", None)
        if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
            everywhere = NamedSharding(sharding.mesh, PartitionSpec())
            return jax.jit(_zero, out_shardings=everywhere)()
    return _zero()


def check_counter(step: Any) -> None:
    """Refuse a counter that would not count: 16 bits end at 32767."""
    dtype, shape = getattr(step, "dtype", type(step).__name__), np.shape(step)
    if dtype != jnp.int32 or shape != ():
        raise TypeError(
            f"`state.step` must be an int32 scalar; got {dtype}{list(shape)}. Keep the "
            "state that tx.init(params) returned as it is."
        )


def _zero() -> Array:
    return jnp.zeros((), jnp.int32)
