"""The measured work: trees of parameters, configurations and their numbers."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

# A leaf of more elements than this is checked at evenly spaced ones only.
SAMPLED_ELEMENTS = 65_536
# The gradients of the three checked steps differ in size, so that a missing clip or a
# missing maximum of AMSGrad changes the direction: Adam alone ignores a constant scale.
GRADIENT_SCALES = (1.0, 0.1, 3.0)
# The usual size of a trained kernel's entries. Small enough that the average's motion,
# 1e-6 per step, stands far above the rounding of an entry, 2e-9.
PARAMETER_SCALE = 0.02


@dataclasses.dataclass(frozen=True)
class Config:
    """One AdamW, in the same numbers for every contender.

    b2 = 0.95 is the value of large language models; over the three steps of the check
    it also lets AdamW and AMSGrad part by far more than the tolerance, which 0.999
    would not.
    """

    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_global_norm: float | None = None
    ema_decay: float | None = None
    amsgrad: bool = False
    # Gradients in one step, of which the mean is taken; None: no accumulation.
    accumulate_steps: int | None = None
    # Whether a gradient that is not finite leaves everything as it is.
    guard: bool = False

    @property
    def window(self) -> int:
        """Calls that make one step."""
        return self.accumulate_steps or 1


CONFIGS = {
    "adamw": Config(),
    "clip": Config(clip_global_norm=1.0),
    "clip-ema": Config(clip_global_norm=1.0, ema_decay=0.999),
    "amsgrad": Config(amsgrad=True),
    "accumulate": Config(accumulate_steps=4),
    "apply": Config(
        clip_global_norm=1.0, ema_decay=0.999, accumulate_steps=2, guard=True
    ),
    "guard": Config(clip_global_norm=1.0, ema_decay=0.999),
    "clip-ema-guard": Config(clip_global_norm=1.0, ema_decay=0.999, guard=True),
    "memory": Config(),
    "precision": Config(),
    "everything": Config(
        clip_global_norm=1.0, ema_decay=0.999, accumulate_steps=4, guard=True
    ),
}


def _leaf(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.float32)


def large(quick: bool) -> dict[str, Any]:
    """Four leaves of 8M: the step is bound by memory alone."""
    shape = (32, 64) if quick else (2048, 4096)
    return {f"kernel_{i}": _leaf(*shape) for i in range(4)}


def odd(quick: bool) -> dict[str, Any]:
    """32 leaves of odd sizes, 31M parameters: no row fills the registers of a CPU."""
    rows, columns = (3, 7) if quick else (701, 789)
    more = 2 if quick else 34
    return {f"kernel_{i:02}": _leaf(rows + more * i, columns) for i in range(32)}


def small(quick: bool) -> dict[str, Any]:
    """A thousand leaves of 4K: the step is bound by what is paid for each leaf."""
    leaves, width = (20, 8) if quick else (1000, 64)
    return {f"kernel_{i:04}": _leaf(width, width) for i in range(leaves)}


def transformer(quick: bool) -> dict[str, Any]:
    """A decoder in Flax's layout: large and tiny leaves mixed, 31M parameters."""
    vocabulary, context, width, heads, layers = (
        (64, 16, 16, 2, 2) if quick else (16_384, 1024, 512, 8, 7)
    )
    head = width // heads
    norm = {"scale": _leaf(width), "bias": _leaf(width)}
    project = {"kernel": _leaf(width, heads, head), "bias": _leaf(heads, head)}
    layer = {
        "attention_norm": norm,
        "attention": {
            "query": project,
            "key": project,
            "value": project,
            "out": {"kernel": _leaf(heads, head, width), "bias": _leaf(width)},
        },
        "mlp_norm": norm,
        "mlp": {
            "up": {"kernel": _leaf(width, 4 * width), "bias": _leaf(4 * width)},
            "down": {"kernel": _leaf(4 * width, width), "bias": _leaf(width)},
        },
    }
    return {
        "token": {"embedding": _leaf(vocabulary, width)},
        "position": {"embedding": _leaf(context, width)},
        **{f"layers_{i}": layer for i in range(layers)},
        "norm": norm,
    }


TREES: dict[str, Callable[[bool], dict[str, Any]]] = {
    "large": large,
    "odd": odd,
    "small": small,
    "transformer": transformer,
}


def parameters(tree: Any, seed: int) -> Iterator[np.ndarray]:
    """Draws the parameters of the tree's leaves, in order, one at a time."""
    for index, leaf in enumerate(jax.tree.leaves(tree)):
        yield PARAMETER_SCALE * _normals(leaf, (seed, 0, index))


def gradients(
    tree: Any, seed: int, step: int, micro_batch: int = 0
) -> Iterator[np.ndarray]:
    """Draws the gradients of one micro-batch of one checked step, likewise."""
    for index, leaf in enumerate(jax.tree.leaves(tree)):
        drawn = _normals(leaf, (seed, 1 + step, index, micro_batch))
        yield GRADIENT_SCALES[step] * drawn


def mean_gradients(tree: Any, config: Config, seed: int, step: int) -> Iterator[Any]:
    """Averages the gradients of one checked step over its micro-batches, in float64."""
    drawn = [gradients(tree, seed, step, i) for i in range(config.window)]
    for leaves in zip(*drawn, strict=True):
        yield sum(leaf.astype(np.float64) for leaf in leaves) / config.window


def spoiled_gradients(tree: Any, seed: int) -> Iterator[np.ndarray]:
    """Draws gradients of which a single element is not a number."""
    for index, gradient in enumerate(gradients(tree, seed, 0)):
        if index == 0:
            gradient.reshape(-1)[-1] = np.nan
        yield gradient


def sample(leaf: Any) -> Any:
    """Takes the elements that the check looks at, of a NumPy, JAX or PyTorch array."""
    stride = max(1, math.prod(leaf.shape) // SAMPLED_ELEMENTS)
    return leaf.reshape(-1)[::stride]


def _normals(leaf: jax.ShapeDtypeStruct, seed: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(leaf.shape, np.float32)
