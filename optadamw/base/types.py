"""Type names that the signatures of this library share."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np

from optadamw.base.adjustable import Adjustable

Array: TypeAlias = jax.Array
PyTree: TypeAlias = Any
"""Any pytree; a tree of parameters, gradients or buffers."""

Number: TypeAlias = float | int | np.number | np.ndarray | jax.Array
Schedule: TypeAlias = Callable[[Any], Any]
"""`step -> value`, called with the number of finished optimizer steps (int32)."""

ScalarOrSchedule: TypeAlias = Number | Schedule | Adjustable
DTypeLike: TypeAlias = Any
