"""Trees, runs and peers for the tests of the interchange."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import optadamw
from optadamw import interchange

B1, B2 = 0.875, 0.96875
"""Betas that float32 holds, so that peers that take powers in it take the same."""

RATE, DECAY = 0.0625, 0.125


def tree(dtype: Any = jnp.float32, seed: int = 0) -> dict[str, Any]:
    """Nested, with a scalar, an array without elements and leaves of one shape."""
    shapes = {
        "dense": {"bias": (3,), "kernel": (4, 3)},
        "out": {"bias": (3,), "kernel": (3, 3)},
        "scale": (),
        "void": (0, 2),
    }
    return normal(shapes, dtype, seed)


def normal(shapes: Any, dtype: Any, seed: int) -> Any:
    """Normal numbers in the place of each shape, None where None is."""
    rng = np.random.default_rng(seed)

    def made(shape: tuple[int, ...]) -> jax.Array:
        x = rng.normal(size=shape)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            x = x + 1j * rng.normal(size=shape)
        return jnp.asarray(x, dtype)

    return jax.tree.map(made, shapes, is_leaf=_is_shape)


def _is_shape(node: Any) -> bool:
    return isinstance(node, tuple) and all(isinstance(n, int) for n in node)


class Model(flax.nnx.Module):
    """Two layers, for a tree that is a State of NNX."""

    def __init__(self, rngs: flax.nnx.Rngs):
        self.first = flax.nnx.Linear(4, 3, rngs=rngs)
        self.second = flax.nnx.Linear(3, 3, rngs=rngs)


TREES: dict[str, Callable[[], Any]] = {
    "nested": tree,
    "list": lambda: normal([(2, 3), (3,), ()], jnp.float32, 1),
    "tuple with None": lambda: (*normal([(2,), (2,)], jnp.float32, 2), None),
    "one array": lambda: normal((5,), jnp.float32, 3),
    "dicts in lists": lambda: {"layers": [normal({"w": (2, 2)}, jnp.float32, 4)] * 2},
    "nnx": lambda: flax.nnx.state(Model(flax.nnx.Rngs(0)), flax.nnx.Param),
    "bfloat16": lambda: tree(jnp.bfloat16),
}
"""Trees of every kind that params come in."""


def gradients(params: Any, seed: int, scale: float = 1.0) -> Any:
    """One gradient for each parameter."""
    rng = np.random.default_rng([seed, 7])

    def made(p: Any) -> jax.Array:
        x = rng.normal(size=np.shape(p))
        if jnp.issubdtype(p.dtype, jnp.complexfloating):
            x = x + 1j * rng.normal(size=np.shape(p))
        return jnp.asarray(scale * x, p.dtype)

    return jax.tree.map(made, params)


def trained(
    tx: Any, params: Any, calls: int, first: int = 0, state: Any = None
) -> tuple[Any, Any]:
    """Parameters and state after some calls."""
    step = jax.jit(tx.step)
    state = tx.init(params) if state is None else state
    for i in range(first, first + calls):
        params, state = step(gradients(params, i), state, params)
    return params, state


class Peer(NamedTuple):
    """A library's functions to make and take a state, and the fields it can hold."""

    to: Any
    back: Any
    holds: tuple[str, ...] = ()
    maximum: str | None = None
    is_exact: bool = True


PEERS = {
    "torch": Peer(interchange.to_torch, interchange.from_torch, maximum="raw"),
    "timm": Peer(interchange.to_timm, interchange.from_timm, maximum="raw"),
    "keras": Peer(
        interchange.to_keras,
        interchange.from_keras,
        ("ema", "accumulator", "loss_scale"),
        "raw",
    ),
    "tensorflow": Peer(
        interchange.to_tensorflow, interchange.from_tensorflow, ("ema",), "raw"
    ),
    "tensorflow_addons": Peer(
        interchange.to_tensorflow_addons,
        interchange.from_tensorflow_addons,
        maximum="raw",
    ),
    "mlx": Peer(interchange.to_mlx, interchange.from_mlx),
    "optax": Peer(
        interchange.to_optax,
        interchange.from_optax,
        ("accumulator",),
        "corrected",
    ),
    "flux": Peer(interchange.to_flux, interchange.from_flux),
    "optimi": Peer(interchange.to_optimi, interchange.from_optimi, is_exact=False),
    "torchao": Peer(interchange.to_torchao, interchange.from_torchao, maximum="raw"),
    "bitsandbytes": Peer(interchange.to_bitsandbytes, interchange.from_bitsandbytes),
}


def adamw(**options: Any) -> Any:
    """AdamW with numbers away from the defaults."""
    numbers = {"b1": B1, "b2": B2, "eps": 2.0**-20, "weight_decay": DECAY}
    return optadamw.adamw(RATE, **(numbers | options))


def into(**options: Any) -> Any:
    """Return Optax's AdamW with the numbers of these cases."""
    return optax.adamw(RATE, B1, B2, eps=2.0**-20, weight_decay=DECAY, **options)


def leaves(params: Any) -> list[np.ndarray]:
    """The leaves as NumPy arrays of their own."""
    return [np.array(x) for x in jax.tree.leaves(params)]


def ulps(actual: Sequence[Any], expected: Sequence[Any]) -> float:
    """The largest difference, in units in the last place of the leaf's largest."""
    worst = 0.0
    for a, e in zip(actual, expected, strict=True):
        a, e = np.asarray(a), np.asarray(e)
        assert a.shape == e.shape and a.dtype == e.dtype, (a.shape, e.shape)
        if e.size:
            unit = np.spacing(np.max(np.abs(e)))
            gap = np.max(np.abs(a.astype(np.float64) - e.astype(np.float64)))
            worst = max(worst, float(gap / unit))
    return worst
