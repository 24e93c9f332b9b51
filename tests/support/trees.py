"""Small trees of parameters, and what it means that two trees are the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.store.state import is_scales

Kinds = dict[str, tuple[Any, tuple[int, ...]]]

PAIR: Kinds = {"kernel": (jnp.float32, (16, 25)), "bias": (jnp.bfloat16, (60,))}
"""Two leaves, for laws that compile a program per row. Bits that depend on the program
do so in one of some hundred elements."""

FLOATS: Kinds = {"kernel": (jnp.float32, (16, 25)), "bias": (jnp.float32, (60,))}
"""Two leaves in which an error of 1e-6 is not hidden by rounding."""

MIXED: Kinds = PAIR | {
    "scale": (jnp.float16, ()),
    "phase": (jnp.complex64, (2, 3)),
    "empty": (jnp.float32, (0, 2)),
}
"""Every dtype that needs no x64, a 0-d leaf and one without elements."""


def normal(kinds: Kinds, seed: int, *batch: int) -> dict[str, jax.Array]:
    """A tree of normal numbers; `batch` axes stand in front of every shape."""
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(_normal(rng, dtype, (*batch, *shape)), dtype)
        for name, (dtype, shape) in kinds.items()
    }


def _normal(rng: np.random.Generator, dtype: Any, shape: tuple[int, ...]) -> Any:
    x = rng.normal(size=shape)
    is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
    return x + 1j * rng.normal(size=shape) if is_complex else x


def types_of(tree: Any) -> Any:
    """Shape, dtype and weak type of every leaf, in the structure of `tree`."""
    return jax.tree.map(_type_of, tree)


def _type_of(x: Any) -> str:
    weak = " weak" if getattr(x, "weak_type", False) else ""
    return f"{x.dtype}{list(x.shape)}{weak}"


def assert_same_types(actual: Any, expected: Any) -> None:
    """Assert equal structures, shapes, dtypes and weak types."""
    assert types_of(actual) == types_of(expected)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)


def assert_same_bits(actual: Any, expected: Any) -> None:
    """Assert equal types and, bit for bit, equal numbers; -0.0 is not 0.0."""
    assert_same_types(actual, expected)
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(actual),
        jax.tree.leaves(expected),
        strict=True,
    )
    for (path, a), e in pairs:
        a, e = np.asarray(a), np.asarray(e)
        if a.tobytes() != e.tobytes():
            where = jax.tree_util.keystr(path)
            differ = np.flatnonzero(_bits(a) != _bits(e))
            first = a.reshape(-1)[differ[0]], e.reshape(-1)[differ[0]]
            raise AssertionError(
                f"{where}: {len(differ)} of {a.size} differ, first {first[0]} and "
                f"{first[1]}"
            )


def _bits(x: np.ndarray) -> np.ndarray:
    return np.frombuffer(x.tobytes(), f"V{x.dtype.itemsize}")


def buffers_of(state: Any) -> dict[str, Any]:
    """The trees like the parameters that a state keeps from step to step."""
    named = {name: getattr(state, name) for name in ("mu", "nu", "nu_max", "ema")}
    named |= {k: v for k, v in (state.custom or {}).items() if not is_scales(k)}
    return {name: tree for name, tree in named.items() if tree is not None}


def largest_difference(actual: Any, expected: Any) -> float:
    """The largest difference, relative to the largest number of its leaf."""
    assert_same_types(actual, expected)
    return max(jax.tree.leaves(jax.tree.map(_difference, actual, expected)))


def _difference(actual: Any, expected: Any) -> float:
    wide = np.complex128 if np.iscomplexobj(expected) else np.float64
    actual, expected = (
        np.asarray(actual).astype(wide),
        np.asarray(expected).astype(wide),
    )
    if not expected.size or np.array_equal(actual, expected, equal_nan=True):
        return 0.0
    return float(np.max(np.abs(actual - expected)) / np.max(np.abs(expected)))
