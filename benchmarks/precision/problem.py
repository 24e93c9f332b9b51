"""A thing to train: a model, its data and its schedule."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

Params = Any
Batch = Any


@dataclass(frozen=True)
class Problem:
    """A model that every contender trains; a seed gives first weights and batches."""

    name: str
    steps: int
    peak: float
    """The largest learning rate, tuned for float32."""
    initial: Callable[[int], Params]
    """The float32 parameters of a seed."""
    batches: Callable[[int], Iterator[Batch]]
    """The batches of a seed, without end."""
    heldout: list[Batch]
    """Batches of one size on which every run ends."""
    loss: Callable[[Params, Batch], jax.Array]
    """The mean loss over a batch, of float32 parameters."""
    about: dict[str, Any]
    """What else the figures depend on."""

    def rate(self) -> optax.Schedule:
        """Warms up over a tenth of the steps and follows a cosine to a hundredth."""
        warm = max(1, self.steps // 10)
        return optax.warmup_cosine_decay_schedule(
            self.peak / warm, self.peak, warm, self.steps, self.peak / 100
        )


def raised(params: Params) -> Params:
    """The parameters in float32, in which every model computes."""
    return jax.tree.map(lambda p: p.astype(jnp.float32), params)
