"""The arguments of a `to_` function, and the buffers of a State in the peer's order."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import at_leaf, invalid
from optadamw.base.hyperparameters import Clock, Hyperparameter
from optadamw.base.tree import match_leaves
from optadamw.base.types import PyTree
from optadamw.checkpoint.arrays import on_host
from optadamw.dialects.states.arrays import numbers, widened
from optadamw.dialects.states.call import Call, Layout, check_fields
from optadamw.dialects.states.frozen import of_frozen
from optadamw.dialects.states.naming import Names
from optadamw.dialects.states.ordered import Place, ordered
from optadamw.dialects.states.peer import (
    DIFFERENCE,
    MOMENTS,
    Maximum,
    Peer,
    check_maximum,
)
from optadamw.dialects.states.settings import (
    kind_of_maximum,
    learning_rate_of,
    negations,
    trained,
)
from optadamw.rules.amsgrad import Maximum as AMSGradMaximum
from optadamw.store.dequantize import dequantize
from optadamw.store.state import BUFFERS, State, states_in
from optadamw.transforms.transformation import Transformation


class ToOptions(TypedDict, total=False):
    """The keyword arguments of every `to_` function, for type checkers."""

    tx: Transformation | None
    names: Names
    layout: Layout | None
    drop: Collection[str]


@dataclass(frozen=True, kw_only=True)
class Departure(Call):
    """The arguments that all `to_` functions share, checked.

    Args:
      state: A `State`, or the state of a chain or wrapper with one.
      params: The parameters here, or their shapes (`jax.ShapeDtypeStruct`).
      tx: The transformation that made the state. None (default) if the peer
        needs no number of it that is not given by another argument.
      names: Paths of `params` in the order of the peer (None for a parameter
        of a state dict that `params` does not have), or a mapping from paths to its
        names or indices. The order of a mapping to names counts: PyTorch loads by
        position. None (default) keeps the order of `jax.tree.leaves(params)`.
      layout: `(path, array) -> array`, applied to each array that is written: the
        inverse of the `layout` of the `from_` function. None (default) writes the
        arrays as they are.
      drop: Buffers to lose, such as ("ema",). The default loses none.
      amsgrad: Which second moments `nu_max` is the maximum of, "raw" or "corrected".
        None (default) asks `tx`.

    Raises:
      TypeError, ValueError: the state has a buffer that the peer has no
        place for, or another kind of `nu_max`; `names` do not fit; the peer
        cannot follow `tx`.
    """

    state: State
    amsgrad: Maximum | None = None

    @classmethod
    def of(
        cls,
        peer: Peer,
        state: PyTree,
        params: PyTree,
        options: ToOptions,
        amsgrad: Maximum | None = None,
    ) -> "Departure":
        """Check the arguments of `to_<peer>`."""
        cls.check_names(f"to_{peer.name}", options, ToOptions)
        own = {"peer": peer, "params": params, "amsgrad": amsgrad}
        return cls(state=_one_in(state), **own, **options)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields("drop", self.drop, (*BUFFERS, "loss_scale", *self.custom))
        check_maximum("amsgrad", self.amsgrad)
        self._check_places()
        self._check_held()
        self._check_maximum()
        self._check_sign()
        self.check_complex("Leave such parameters out.")

    @cached_property
    def paths(self) -> tuple[str, ...]:
        return self.leaves.paths

    @property
    def custom(self) -> tuple[str, ...]:
        """The buffers of rules of the user's own, which no peer has a place for."""
        return tuple(self.state.custom or ())

    @cached_property
    def places(self) -> list[Place]:
        """The parameters in the order of the peer."""
        return ordered(self.names, self.paths)

    @cached_property
    def step(self) -> int:
        array = on_host("step", self.state.step)
        if array.shape != ():
            raise at_leaf(
                "step",
                f"it must be one integer; got {array.dtype}{list(array.shape)}.",
                "Of a state under vmap take the members one by one.",
            )
        return int(array)

    @property
    def clock(self) -> Clock:
        """The time of the state, with its adjustable hyperparameters."""
        return Clock.at(jnp.int32(self.step), self.state.hyperparameters)

    def learning_rate(self) -> Hyperparameter | None:
        """Return the one learning rate of `tx`; None if it has none.

        Raises:
          ValueError: parameters have different rates.
        """
        return learning_rate_of(self.tx, self.leaves, self.clock, self.peer.title)

    @cached_property
    def filled(self) -> int:
        """The number of gradients in an open window that is not dropped."""
        micro_step = self.state.micro_step
        if micro_step is None or "accumulator" in self.drop:
            return 0
        return int(on_host("micro_step", micro_step))

    @property
    def scale(self) -> tuple[float, int] | None:
        """The dynamic loss scale and its count of good steps; None if dropped."""
        if self.state.growth is None or "loss_scale" in self.drop:
            return None
        assert self.state.loss_scale is not None
        scale = on_host("loss_scale", self.state.loss_scale)
        return float(scale), int(on_host("growth", self.state.growth))

    def has(self, field: str) -> bool:
        """Whether the State has a buffer that is not dropped."""
        return getattr(self.state, field) is not None and field not in self.drop

    def columns(self) -> dict[str, list[np.ndarray | None]]:
        """Return the columns of Adam's moments by their names in the peer's state."""
        fields = [f for f in MOMENTS if f in self.peer.keys]
        kept = [f for f in fields if f != "nu_max" or self.has(f)]
        return {self.peer.keys[field]: self.column(field) for field in kept}

    def column(self, field: str) -> list[np.ndarray | None]:
        """Return a buffer in the peer's order, None for parameters not in `params`.

        Raises:
          ValueError: the State lacks the buffer, or it is not that of `params`, or not
            finite.
        """
        tree = getattr(self.state, field)
        if tree is None:
            raise ValueError(
                f"`state` holds no `{field}`, and {self.peer.title} needs it. Convert "
                "the state of a transformation with Adam in it."
            )
        kept = match_leaves(tree, self.leaves, f"state.{field}")
        return [
            None if place.leaf is None else self._left(field, place.leaf, kept)
            for place in self.places
        ]

    def _left(self, field: str, leaf: int, kept: list[Any]) -> np.ndarray:
        path, like = self.paths[leaf], self.leaves.arrays[leaf]
        where = f"{field}/{path}"
        value = kept[leaf]
        if value is None:
            value = of_frozen(field, path, self.given[leaf])
        array = numbers(where, value)
        if array.shape != like.shape:
            raise at_leaf(
                where,
                f"it has shape {array.shape}, the parameter {like.shape}.",
                "Pass the parameters that the state belongs to.",
            )
        array = widened(array)
        if self.layout is not None:
            array = widened(numbers(where, self.turned(path, array)))
        return array

    # --- Checks ----------------------------------------------------------------------

    def _check_places(self) -> None:
        for place in self.places:
            if place.leaf is None and not self.peer.has_gaps:
                raise invalid("names", "made of paths, without None", None)

    def _check_held(self) -> None:
        """Refuse to lose a buffer that the peer has no place for."""
        losses = {
            "ema": self.state.ema is not None,
            "residual": bool(jax.tree.leaves(self.state.residual)),
            "nu_max": self.state.nu_max is not None,
            "accumulator": self.filled > 0,
            "loss_scale": self.scale is not None,
            **dict.fromkeys(self.custom, True),
        }
        called = {
            "accumulator": f"an open window of {self.filled} gradients",
            "loss_scale": "a dynamic loss scale",
            **{
                name: f"`{name}`, a buffer of a rule of your own"
                for name in self.custom
            },
            "mu_slow": "`mu_slow`, the slow mean of `b3`",
            "z": "`z`, the steps of schedule_free",
        }
        for name, is_held in losses.items():
            if is_held and name not in self.peer.keys and name not in self.drop:
                what = called.get(name, f"`{name}`")
                raise ValueError(
                    f"`state` holds {what}, for which {self.peer.title} has no place. "
                    f"Lose it with drop=({name!r},)."
                )

    def _check_maximum(self) -> None:
        if not self.has("nu_max"):
            return
        known = None if self.tx is None else kind_of_maximum(self.tx)
        kind = known or self.amsgrad
        if kind is None:
            raise ValueError(
                "`state` holds `nu_max`, and of which second moments it is the maximum "
                "is not known. Pass tx=<the transformation that made it>, or "
                "amsgrad='raw' or 'corrected'."
            )
        if known and self.amsgrad not in (None, known):
            raise invalid("amsgrad", f"{known!r}, as `tx` says, or None", self.amsgrad)
        if self.tx is not None and not self.peer.has_groups:
            self._check_common_maximum(self.tx)
        if kind != self.peer.maximum:
            raise ValueError(
                f"`state` holds the maximum of the {kind} second moments, and "
                f"{self.peer.title} uses that of the {self.peer.maximum} ones: "
                f"{DIFFERENCE}. Lose it with drop=('nu_max',)."
            )

    def _check_common_maximum(self, tx: Transformation) -> None:
        rows = list(trained(tx, self.leaves))
        lacking = [
            path
            for path, rules in rows
            if not any(isinstance(rule, AMSGradMaximum) for rule in rules)
        ]
        if 0 < len(lacking) < len(rows):
            raise ValueError(
                f"`tx` takes AMSGrad's maximum for some parameters and not for "
                f"'{lacking[0]}', and {self.peer.title} takes it for all or none. Lose "
                "it with drop=('nu_max',)."
            )

    def _check_sign(self) -> None:
        if self.tx is None or self.peer.maximizes:
            return
        if any(negations(self.tx, self.leaves)):
            raise ValueError(
                f"`tx` maximizes, and {self.peer.title} cannot: the first moment is "
                "that of negated gradients. Convert a run that minimizes."
            )


def _one_in(whole: PyTree) -> State:
    """Return the one State in a tree, with codes of 8 bits decoded."""
    found = states_in(whole)
    if len(found) != 1:
        raise invalid(
            "state",
            "a State of this library, or hold one",
            type(whole).__name__,
            f"It holds {len(found)}: convert them one by one.",
        )
    plain: State = dequantize(found[0])
    return plain
