"""The demo's network: two convolutions, a pooling and two dense layers, in Flax NNX."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class Convolution(nnx.Linear):
    """A 3x3 convolution with zero padding, as one matrix product over patches.

    Differs from `nnx.Conv` in speed alone: inside a loop XLA's CPU convolution and its
    gradient run on one core without its fast kernel. For this network a training step
    within `jax.lax.scan` takes 35 ms with `nnx.Conv` and 0.9 ms so (2 cores, jax 0.10
    and 0.12).
    """

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        super().__init__(9 * inputs, outputs, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Map images `(n, height, width, inputs)` to `(n, height, width, outputs)`."""
        _, height, width, _ = images.shape
        padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
        patches = jnp.concatenate(
            [
                padded[:, row : row + height, column : column + width]
                for row in range(3)
                for column in range(3)
            ],
            axis=-1,
        )
        return super().__call__(patches)


class Network(nnx.Module):
    """Map images `(n, 8, 8, 1)` to the ten digits' logits `(n, 10)`."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.convolution1 = Convolution(1, 16, rngs=rngs)
        self.convolution2 = Convolution(16, 32, rngs=rngs)
        self.hidden = nnx.Linear(4 * 4 * 32, 64, rngs=rngs)
        self.output = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Return the logits."""
        x = nnx.relu(self.convolution1(images))
        x = nnx.relu(self.convolution2(x))
        x = x.reshape(len(x), 4, 2, 4, 2, 32).max(axis=(2, 4))
        x = nnx.relu(self.hidden(x.reshape(len(x), -1)))
        return self.output(x)


def initial_network(seed: int) -> tuple[nnx.GraphDef, Any]:
    """Return the network's static part and its parameters as a dict of arrays."""
    graph, params = nnx.split(Network(rngs=nnx.Rngs(seed)), nnx.Param)
    return graph, nnx.to_pure_dict(params)
