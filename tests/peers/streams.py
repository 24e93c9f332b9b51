"""The parameters and the gradients that every recorded run is given.

The leaves are few and small, but of every rank that has a case of its own: matrices,
vectors, one element and a scalar. The gradients are unlike a benchmark's normals on
purpose: their magnitudes lie log-uniform over five decades, signs change, some are
exactly zero, one element gets its first gradient at call 20, some calls are 100 times
the others (a clip that always or never clips shows nothing), and the mean drifts (so
that the first moment is not noise).

What was recorded with is saved in `recorded/streams.npz`; that file is the truth, and
`make` only says where it came from.
"""

import pathlib
from typing import NamedTuple

import numpy as np

Tree = dict[str, np.ndarray]

SHAPES: dict[str, tuple[int, ...]] = {
    "a/kernel": (5, 4),
    "a/bias": (4,),
    "b/kernel": (4, 3),
    "b/bias": (3,),
    "scale": (1,),
    "temperature": (),
}
# Complex parameters are a leaf set of their own, and of PyTorch's rows only.
COMPLEX_SHAPES = {"c/kernel": (4, 3), "c/bias": (3,)}
CALLS = 60  # rows take the first 50; those that accumulate may take all
LATE = ("a/kernel", (2, 1))  # this element's gradient is zero for the first 20 calls
FILE = pathlib.Path(__file__).parent / "recorded" / "streams.npz"


class Stream(NamedTuple):
    """Initial parameters and one tree of gradients per call, all float32."""

    params: Tree
    grads: list[Tree]


def _gradients(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw `CALLS` gradients of one leaf, in float64."""
    full = (CALLS, *shape)
    magnitude = 10.0 ** generator.uniform(-4, 1, shape)
    noise = generator.normal(size=full)
    phase = generator.uniform(0, 2 * np.pi, shape)
    call = np.arange(CALLS).reshape((CALLS,) + (1,) * len(shape))
    drift = np.sin(phase + 2 * np.pi * call / 40)
    zero = generator.uniform(size=full) < 0.06
    return np.where(zero, 0.0, magnitude * (0.7 * noise + 0.8 * drift))


def make(seed: int = 2026) -> Stream:
    """Draw the stream; the same for a seed as long as NumPy's generator is."""
    generator = np.random.default_rng(seed)
    params = {name: generator.normal(size=shape) for name, shape in SHAPES.items()}
    params["scale"] = np.array([1.5])
    params["temperature"] = np.array(0.07)
    leaves = {name: _gradients(generator, shape) for name, shape in SHAPES.items()}
    name, index = LATE
    leaves[name][(slice(0, 20), *index)] = 0.0
    for call in (7, 23, 24, 41):
        for leaf in leaves.values():
            leaf[call] *= 100.0
    # A burst in one leaf alone tells a clip per leaf from a clip over all of them.
    leaves["b/bias"][15] *= 100.0
    grads = [
        {name: np.float32(leaf[call]) for name, leaf in leaves.items()}
        for call in range(CALLS)
    ]
    return Stream({name: np.float32(leaf) for name, leaf in params.items()}, grads)


def make_complex(seed: int = 2027) -> Stream:
    """Draw the complex stream: real and imaginary parts like `make`'s leaves."""
    generator = np.random.default_rng(seed)

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        real, imaginary = (_gradients(generator, shape) for _ in range(2))
        return np.complex64(real + 1j * imaginary)

    params = {
        name: np.complex64(
            generator.normal(size=shape) + 1j * generator.normal(size=shape)
        )
        for name, shape in COMPLEX_SHAPES.items()
    }
    leaves = {name: draw(shape) for name, shape in COMPLEX_SHAPES.items()}
    grads = [
        {name: np.asarray(leaf[call]) for name, leaf in leaves.items()}
        for call in range(CALLS)
    ]
    return Stream(params, grads)


def flatten(tree: Tree) -> np.ndarray:
    """Return the leaves of `tree` one after the other, each in C order."""
    return np.concatenate([np.ravel(np.asarray(leaf)) for leaf in tree.values()])


def unflatten(flat: np.ndarray, shapes: dict[str, tuple[int, ...]] = SHAPES) -> Tree:
    """Cut a flat array back into the leaves of `shapes`."""
    tree, start = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        tree[name] = np.asarray(flat[start : start + size]).reshape(shape)
        start += size
    return tree


def shapes_of(dtype: str) -> dict[str, tuple[int, ...]]:
    """Return the leaf set that rows of this dtype use."""
    return COMPLEX_SHAPES if dtype == "complex64" else SHAPES


def save(path: pathlib.Path = FILE) -> None:
    """Write both streams; done once, before the first recording."""
    arrays = {}
    for prefix, stream in (("real", make()), ("complex", make_complex())):
        arrays[f"{prefix}/params"] = flatten(stream.params)
        arrays[f"{prefix}/grads"] = np.stack([flatten(tree) for tree in stream.grads])
    np.savez_compressed(path, **arrays)


def load(dtype: str = "float32", path: pathlib.Path = FILE) -> Stream:
    """Read the stream that rows of this dtype use.

    For "bfloat16" the values are rounded to nearest even, still stored as float32.
    """
    prefix = "complex" if dtype == "complex64" else "real"
    shapes = shapes_of(dtype)
    with np.load(path) as file:
        params, grads = file[f"{prefix}/params"], file[f"{prefix}/grads"]
    if dtype == "bfloat16":
        params, grads = to_bfloat16(params), to_bfloat16(grads)
    return Stream(
        unflatten(params, shapes), [unflatten(flat, shapes) for flat in grads]
    )


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """Round finite float32 values to bfloat16's, kept as float32 (ties to even)."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32)


if __name__ == "__main__":
    save()
