"""The members of a sweep, and the two programs that make and step them."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from optadamw.base.types import Array, PyTree
from optadamw.tuning.training import TrainStep, built, stepped


class Members(NamedTuple):
    """The trainings of a sweep; every array has a leading axis for the members.

    Attributes:
      params: the parameters.
      state: the optimizer states.
      live: whether a member is trained; one that is stopped keeps every bit.
      loss: the loss that the last step of each member returned, float32; NaN before
        the first step.
    """

    params: PyTree
    state: PyTree
    live: Array
    loss: Array


class Programs:
    """The two compiled functions of a sweep."""

    def __init__(
        self,
        train_step: TrainStep,
        tx_of: Callable[..., Any],
        count: int,
        sharding: NamedSharding | None,
    ) -> None:
        place: dict[str, Any] = {}
        if sharding is not None:
            place["out_shardings"] = sharding

        def init_one(point: Any, params: PyTree) -> Members:
            state = built(tx_of, **point).init(params)
            return Members(params, state, jnp.bool(True), jnp.float32(math.nan))

        def init(points: Any, params: PyTree, stacked: bool) -> Members:
            if not stacked:
                params = jax.tree.map(
                    lambda p: jnp.broadcast_to(p, (count, *jnp.shape(p))), params
                )
            return jax.vmap(init_one)(points, params)

        def step_one(point: Any, old: Members, batch: Any) -> Members:
            tx = built(tx_of, **point)
            params, state, loss = stepped(train_step, tx, old.params, old.state, batch)
            new = old._replace(params=params, state=state, loss=loss)
            return jax.tree.map(lambda x, y: jnp.where(old.live, x, y), new, old)

        def step(points: Any, members: Members, batch: Any) -> Members:
            return jax.vmap(step_one, in_axes=(0, 0, None))(points, members, batch)

        self.init = jax.jit(init, static_argnums=2, **place)
        self.step = jax.jit(step, donate_argnums=1, **place)
