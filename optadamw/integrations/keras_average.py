"""The averages of model variables, as Keras's callback `SwapEMAWeights` expects them.

The callback assigns the average of a variable to the variable, and the value of the
variable to its average, and later both back. The average may be stored in fewer or more
bits than the parameter, so that one of them would be rounded. What the callback assigns
to an average is therefore kept beside the State, which does not change.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from optadamw.base.errors import misplaced
from optadamw.integrations.keras_variables import Kept
from optadamw.transforms.average import ema_of, finalize


class Swapped(NamedTuple):
    """A variable of the model that holds its average, and its parameter kept aside."""

    parameter: np.ndarray
    held: np.ndarray


class Average:
    """The average of one variable, or its parameter while the average is in the model.

    A variable without average, such as a frozen one, stands for itself.
    """

    def __init__(self, variable: Any, average: Any, waiting: dict[int, Swapped]):
        """Make it.

        Args:
          variable: the variable of the model.
          average: the average in the dtype of the variable.
          waiting: the parameters of variables that hold their averages, by their ids.
            An entry counts only while the variable still holds its average: an
            evaluation that was interrupted is not swapped back.
        """
        self._variable = variable
        self._average = average
        self._waiting = waiting
        self.shape = tuple(variable.shape)
        self.dtype = np.dtype(variable.value.dtype)  # JAX takes no text

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return the value that the variable gets in exchange."""
        del copy
        swapped = self._waiting.get(id(self._variable))
        if swapped is not None and not self._holds(swapped.held):
            del self._waiting[id(self._variable)]
            swapped = None
        value = self._average if swapped is None else swapped.parameter
        return np.array(value, dtype=dtype)

    def assign(self, value: Any) -> None:
        """Keep a parameter while the average is in the model, or forget it again."""
        if self._waiting.pop(id(self._variable), None) is None:
            held = np.array(self._variable.value)
            self._waiting[id(self._variable)] = Swapped(np.array(value), held)

    def _holds(self, value: np.ndarray) -> bool:
        return np.asarray(self._variable.value).tobytes() == value.tobytes()


class WithAverage:
    """The methods of a Keras optimizer that concern the average of `tx`."""

    _kept: Kept
    _trainable_variables: Sequence[Any]
    built: bool

    @property
    def _model_variables_moving_average(self) -> list[Average]:
        """The averages, by the name under which `SwapEMAWeights` looks for them.

        Raises:
          ValueError: the transformation has no average.
        """
        if not self.built:
            return []
        kept = self._kept
        if kept.state.ema is None:
            raise misplaced(
                "SwapEMAWeights needs an average of the parameters, and `tx` has none.",
                "Make it with optadamw.adamw(..., ema_decay=0.999).",
            )
        averages = ema_of(kept.state, like=kept.values())
        values = {id(v): averages[path] for path, v in kept.trained.items()}
        return [
            Average(v, values.get(id(v), v.value), kept.waiting)
            for v in self._trainable_variables
        ]

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """Write the average of `tx` into the variables; `fit` calls it at its end."""
        kept = self._kept
        # An error while an epoch is traced leaves Keras's variables without values, and
        # another error here would hide it.
        if not self.built or kept.is_freed:
            return
        if kept.state.ema is None or int(kept.state.step) == 0:
            return
        averaged = finalize(kept.state, kept.values())
        chosen = {id(variable) for variable in var_list}
        for path, variable in kept.trained.items():
            if id(variable) in chosen:
                variable.assign(averaged[path])
