"""The arguments of a `from_` function."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import TypedDict

from optadamw.base.types import PyTree
from optadamw.dialects.states.call import Call, Layout, check_fields
from optadamw.dialects.states.naming import Missing, Names, check_missing
from optadamw.dialects.states.peer import Peer
from optadamw.store.state import BUFFERS, is_custom
from optadamw.transforms.transformation import Transformation


class FromOptions(TypedDict, total=False):
    """The keyword arguments of every `from_` function, for type checkers."""

    tx: Transformation | None
    names: Names
    layout: Layout | None
    missing: Missing
    drop: Collection[str]
    afresh: Collection[str]


@dataclass(frozen=True, kw_only=True)
class Request(Call):
    """The arguments that all `from_` functions share, checked.

    Args:
      params: The parameters here, or their shapes (`jax.ShapeDtypeStruct`).
      tx: The transformation that will continue the run, with its own hyperparameters;
        a warning names those that were saved and differ. None (default) returns a
        `State` with the buffers that were saved, in float32 (float64 for float64
        parameters).
      names: Paths of `params` in the order in which the peer saved them
        (None for a parameter that `params` does not have), or a mapping from paths to
        its names or indices. None (default) matches by the saved names, or if there are
        none by the order of `jax.tree.leaves(params)`, which sorts the keys of a dict.
      layout: `(path, array) -> array`, applied to each array that is read, such as
        `lambda path, x: x.T if path.endswith("kernel") else x`. None (default) reads
        the arrays as they are. A shape tells whether a kernel should have been
        transposed, unless it is square.
      missing: What happens to a parameter without a saved state: "error" (default)
        refuses the conversion, "zeros" starts the parameter from zeros.
      drop: Saved buffers to leave behind, such as ("nu_max",). The default leaves none.
      afresh: Buffers of `tx` that start anew, such as ("ema",). The default starts
        none.

    Raises:
      TypeError, ValueError: `saved` is another kind of state, has other parameters,
        shapes or names, has numbers that are not finite, or differs from `tx` in an
        option that its buffers depend on. Nothing is made.
    """

    missing: Missing = "error"
    afresh: Collection[str] = ()

    @classmethod
    def of(cls, peer: Peer, params: PyTree, options: FromOptions) -> "Request":
        """Check the arguments of `from_<peer>`."""
        cls.check_names(f"from_{peer.name}", options, FromOptions)
        return cls(peer=peer, params=params, **options)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_missing(self.missing)
        check_fields("drop", self.drop, (*BUFFERS, "loss_scale", *self.peer.keys))
        scale = ("loss_scale",) if "loss_scale" in self.peer.keys else ()
        check_fields("afresh", self.afresh, (*BUFFERS, *scale, *self.custom))

    @cached_property
    def custom(self) -> list[str]:
        """The buffers that rules of the user's own keep, which no peer has."""
        slots = () if self.tx is None else self.tx.recipe.composition.buffers
        return [slot.name for slot in slots if is_custom(slot.name)]

    @property
    def left(self) -> set[str]:
        """The buffers that are not read: left behind there, or started anew here."""
        return {*self.drop, *self.afresh}
