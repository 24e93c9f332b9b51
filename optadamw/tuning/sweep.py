"""A population of trainings over hyperparameters, as one compiled program."""

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from optadamw.base.errors import at_leaf, invalid, mistyped, reworded
from optadamw.base.tree import flatten
from optadamw.base.types import Array, PyTree
from optadamw.transforms.transformation import Transformation
from optadamw.tuning import report
from optadamw.tuning.points import checked_points
from optadamw.tuning.programs import Members, Programs
from optadamw.tuning.training import TrainStep, built, check_traceable

AXIS = "members"
"""The axis of the mesh over which a sweep on several devices divides its members."""


@dataclass(frozen=True, eq=False, repr=False)
class Sweep:
    """A sweep; `sweep` makes it.

    Attributes:
      points: for each hyperparameter the numbers of the members.
    """

    train_step: TrainStep
    tx_of: Callable[..., Any]
    points: Mapping[str, np.ndarray]
    sharding: NamedSharding | None

    def __len__(self) -> int:
        """Return the number of members."""
        return len(next(iter(self.points.values())))

    def __repr__(self) -> str:
        return f"Sweep of {len(self)} members over {', '.join(self.points)}"

    def init(self, params: PyTree, *, stacked: bool = False) -> Members:
        """Return the members before their first step.

        Args:
          params: the first parameters of every member. They are copied.
          stacked: whether `params` has a leading axis with parameters for each member,
            such as `jax.vmap(initialize)(keys)` makes. Default: False.

        Raises:
          ValueError: `stacked`, and a leaf has no leading axis of one entry for each
            member; or the transformation refuses the parameters.
        """
        if stacked:
            self._check_stacked(params)
            if self.sharding is not None:
                params = jax.device_put(params, self.sharding)
        elif self.sharding is not None:
            params = jax.device_put(params, self._everywhere)
        return self._programs.init(self._numbers, params, stacked)

    def step(self, members: Members, *batch: Any) -> Members:
        """Return the members after one step of each that is live.

        One compiled program steps all members, whatever their numbers are. The memory
        of `members` is reused, so the record that is passed cannot be used again.

        Args:
          members: the members; they are donated.
          *batch: what `train_step` takes after the state, the same for all members.
        """
        if self.sharding is not None:
            batch = jax.device_put(batch, self._everywhere)
        return self._programs.step(self._numbers, members, batch)

    def stop(self, members: Members, where: Any) -> Members:
        """Return the members with those stopped for which `where` is true.

        A stopped member keeps every bit of its parameters, state and loss in all later
        steps, and stays in the records. It takes its share of the time of a step
        nevertheless: one program steps all members.

        Args:
          members: the members.
          where: one bool for each member, such as `members.loss > 2.0`. A member that
            was stopped before stays so.

        Raises:
          TypeError: `where` is no array of bools.
          ValueError: it has another shape than (number of members,).

        Example:
          Stop the members whose loss is not finite, and all but the best eight:

          >>> import jax.numpy as jnp
          >>> loss = jnp.array([0.3, jnp.nan, 0.1] + [1.0] * 7)
          >>> limit = jnp.sort(loss)[8 - 1]
          >>> (~(loss <= limit)).tolist()[:3]
          [False, True, False]
        """
        where = jnp.asarray(where)
        if where.dtype != bool:
            raise mistyped("where", "an array of bools", where)
        if where.shape != (len(self),):
            shape = f"one bool for each of the {len(self)} members"
            raise ValueError(f"`where` must be {shape}; got the shape {where.shape}.")
        live = members.live & ~where
        if self.sharding is not None:
            live = jax.device_put(live, self.sharding)
        return members._replace(live=live)

    def member(self, members: Members, index: int) -> tuple[Any, PyTree, PyTree]:
        """Return `(tx, params, state)` of one member, to go on with it alone.

        The transformation is `tx_of` of the numbers of this member.

        Raises:
          ValueError, TypeError: there is no member of this number, or it is no number.
        """
        if not hasattr(index, "__index__"):
            raise mistyped("index", "a whole number", index)
        if not 0 <= index < len(self):
            raise invalid("index", f"from 0 to {len(self) - 1}", index)
        params, state = jax.tree.map(
            lambda x: x[index], (members.params, members.state)
        )
        return self.tx_of(**self._point(index)), params, state

    def records(self, members: Members) -> list[dict[str, float]]:
        """Return a record of numbers for each member, for tables and plots.

        A record has "member" (its number), the hyperparameters by name, "loss",
        "live" (1.0 or 0.0) and, with the prefix "stats/", the numbers of
        `stats_of(state).flat()` if the state is of this library.
        """
        return report.records(self.points, members)

    def table(self, members: Members, most: int = 20) -> str:
        """Return a table of the members with the least losses, the best first.

        Args:
          members: the members.
          most: the number of rows at most. Default: 20.
        """
        return report.table(self.records(members), list(self.points), most)

    def best(self, members: Members) -> int:
        """Return the number of the member with the least loss.

        Raises:
          ValueError: no member has a finite loss.
        """
        loss = np.asarray(jax.device_get(members.loss))
        if not np.isfinite(loss).any():
            raise ValueError("No member has a finite loss; a step gives each its loss.")
        return int(np.nanargmin(np.where(np.isfinite(loss), loss, np.nan)))

    def _point(self, index: int) -> dict[str, float | int]:
        return {name: column[index].item() for name, column in self.points.items()}

    def _at_member(self, index: int) -> AbstractContextManager[None]:
        """Name the member in the errors that are raised inside."""
        point = self._point(index)
        shown = ", ".join(f"{name}={value!r}" for name, value in point.items())
        return reworded(lambda text: f"Member {index} ({shown}): {text}")

    @property
    def _everywhere(self) -> NamedSharding:
        assert self.sharding is not None
        return NamedSharding(self.sharding.mesh, PartitionSpec())

    @functools.cached_property
    def _numbers(self) -> dict[str, Array]:
        made = {name: jnp.asarray(column) for name, column in self.points.items()}
        return made if self.sharding is None else jax.device_put(made, self.sharding)

    @functools.cached_property
    def _programs(self) -> Programs:
        return Programs(self.train_step, self.tx_of, len(self), self.sharding)

    def _check_stacked(self, params: PyTree) -> None:
        leaves = flatten(params)
        for path, array in zip(leaves.paths, leaves.arrays, strict=True):
            if np.shape(array)[:1] != (len(self),):
                raise at_leaf(
                    path,
                    f"its shape {np.shape(array)} has no leading axis with an entry "
                    f"for each of the {len(self)} members.",
                    "Leave `stacked` out to give every member the same parameters.",
                )


def sweep(
    train_step: TrainStep,
    tx_of: Callable[..., Any],
    points: Mapping[str, Sequence[float] | np.ndarray],
    *,
    devices: Sequence[jax.Device] | None = None,
) -> Sweep:
    """Train a population over hyperparameters in one compiled program.

    Each member has its own numbers, parameters and state, and so its own moments,
    guard, loss scale and statistics. `jax.vmap` steps all members at once; their
    numbers are arguments of the program, which is compiled once.

    Differs from a loop of trainings: products of matrices are batched, so that the last
    digits may differ from a training alone. Numbers are float32 arrays in the step,
    also those that a Python float would give with more digits: 1 - b2 of b2 = 0.999 is
    known to 1.3e-5 of its size. A step takes the memory of the old and of the new
    parameters and states at once, because a stopped member keeps its old ones.

    Args:
      train_step: `train_step(tx, params, state, *batch) -> (params, state, loss)`, your
        step for one training. It must be a function that `jax.vmap` can transform.
      tx_of: makes the transformation of one member, such as
        `lambda learning_rate: optadamw.adamw(learning_rate, skip_nonfinite=True)`. It
        is called with the names of `points`.
      points: for each name one number for each member: `grid_points(...)`,
        `random_points(...)` or a dict of lists.
      devices: the devices over which the members are divided, an equal number on each.
        A step exchanges no parameter; with a guard, the devices tell one another in one
        bool whether any member steps. None (default): all members are where the
        parameters are.

    Returns:
      A `Sweep`: `init(params)`, `step(members, *batch)`, `stop(members, where)`,
      `member`, `records`, `table` and `best`.

    Raises:
      TypeError: a number of `points` is no number, or `tx_of` chooses a structure by
        it, such as a dtype or a switch: that needs a sweep for each structure.
      ValueError: a number is out of the range of its option in float32, the message
        has the member; `points` have several lengths; or the devices do not divide the
        members.

    Example:
      >>> import jax, jax.numpy as jnp, optadamw
      >>> def train_step(tx, params, state, x):
      ...     loss, grads = jax.value_and_grad(lambda p: jnp.sum((p - x) ** 2))(params)
      ...     params, state = tx.step(grads, state, params)
      ...     return params, state, loss
      >>> made = optadamw.sweep(
      ...     train_step,
      ...     lambda learning_rate: optadamw.adamw(learning_rate, weight_decay=0.0),
      ...     optadamw.grid_points(learning_rate=[0.001, 0.1, 10.0]),
      ... )
      >>> members = made.init(jnp.zeros(2))
      >>> for _ in range(20):
      ...     members = made.step(members, jnp.ones(2))
      >>> made.records(members)[made.best(members)]["learning_rate"]
      0.1
    """
    for name, value in (("train_step", train_step), ("tx_of", tx_of)):
        if not callable(value):
            raise mistyped(name, "a function", value)
    columns = checked_points(points)
    made = Sweep(train_step, tx_of, columns, _sharding(devices, columns))
    # The step takes float32, in which 1 - 1e-8 is 1 and no legal decay of a moment.
    with np.errstate(over="ignore"):
        taken = {
            name: column.astype(jax.dtypes.canonicalize_dtype(column.dtype))
            for name, column in columns.items()
        }
    for index in range(len(made)):
        point = {name: column[index].item() for name, column in taken.items()}
        with made._at_member(index):
            _refuse_offload(built(tx_of, **point))
    check_traceable(tx_of, **made._point(0))
    return made


def _refuse_offload(tx: Any) -> None:
    if isinstance(tx, Transformation) and tx.recipe.composition.offload:
        raise ValueError(
            "`tx_of` keeps buffers in the memory of the host (with_offload), where "
            "members that have ended cannot be left as they are. Leave it out."
        )


def _sharding(devices: Any, columns: Mapping[str, np.ndarray]) -> NamedSharding | None:
    if devices is None:
        return None
    chosen = list(devices)
    count = len(next(iter(columns.values())))
    if not chosen or count % len(chosen):
        raise ValueError(
            f"`devices` must divide the members evenly; got {len(chosen)} devices for "
            f"{count} members. Add points, or take fewer devices."
        )
    return NamedSharding(Mesh(np.array(chosen), (AXIS,)), PartitionSpec(AXIS))
