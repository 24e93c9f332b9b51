"""The store of a buffer that does not exist: None, in place of an array."""

from dataclasses import dataclass
from typing import Any

from optadamw.base.errors import at_leaf
from optadamw.base.random_bits import Site
from optadamw.base.types import Array


@dataclass(frozen=True)
class Absent:
    """None in place of an array. No rule runs on a frozen parameter, and none asks."""

    @property
    def draws(self) -> bool:
        return False

    @property
    def is_lossy(self) -> bool:
        return False

    def zeros(self, param: Any) -> None:
        del param

    def copy(self, param: Any) -> None:
        del param

    def fitted(self, buffer: Any, param: Any) -> "Absent":
        del buffer, param
        return self

    def check(self, path: str, buffer: Any, param: Any) -> None:
        del param
        if buffer is not None:
            raise at_leaf(
                path,
                "it is frozen, and `state` has a buffer for it.",
                "The state is of other options: carry it over by name with "
                "checkpoint.restore(tx, params, state).",
            )

    def decode(self, buffer: Any, param: Any) -> Array:
        raise NotImplementedError("a frozen parameter has no buffer to read")

    def encode(self, value: Array, param: Any, site: Site | None = None) -> None:
        raise NotImplementedError("a frozen parameter has no buffer to write")

    def summary(self, param: Any) -> tuple[str, int]:
        del param
        return "", 0
