"""The variables of an optimizer in a file of Keras, with the fields of the State."""

from typing import Any

import jax
import numpy as np

from optadamw.integrations.keras_variables import Kept

FIELDS = "fields"
"""The entry with the field of the State of each variable, as text."""


class WithFields:
    """The part of `Optimizer` that reads and writes its variables.

    Keras numbers the variables, so the average of one optimizer and the maximum of
    another have the same place. The file therefore names the fields too.
    """

    _kept: Kept

    def save_own_variables(self, store: Any) -> None:
        """Write the variables by their numbers, and the fields that they are."""
        super().save_own_variables(store)  # type: ignore[misc]
        if text := ",".join(_fields(self._kept)):
            store[FIELDS] = np.frombuffer(text.encode(), np.uint8)

    def load_own_variables(self, store: Any) -> None:
        """Read the variables.

        Raises:
          ValueError: the file has as many variables, of other fields of the State.
        """
        entries = {key: store[key] for key in store.keys() if key != FIELDS}
        count = len(self.variables)  # type: ignore[attr-defined]
        if FIELDS in store.keys() and len(entries) == count:
            saved = bytes(np.asarray(store[FIELDS])).decode().split(",")
            own = _fields(self._kept)
            if saved != own:
                raise ValueError(
                    f"The file holds the state of another transformation, with "
                    f"{_shown(saved)}; `tx` keeps {_shown(own)}. Load it with the `tx` "
                    "that wrote it. To load the weights of the model alone, call "
                    "load_weights before the optimizer is built, or with "
                    "skip_mismatch=True."
                )
        super().load_own_variables(entries)  # type: ignore[misc]


def _fields(kept: Kept) -> list[str]:
    """Return the field of the State of each variable; [] if there is no State."""
    if kept.structure is None:
        return []
    state = jax.tree.unflatten(kept.structure, kept.buffers)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return [jax.tree_util.keystr(keys[:1], simple=True) for keys, _ in leaves]


def _shown(fields: list[str]) -> str:
    return ", ".join(dict.fromkeys(fields))
