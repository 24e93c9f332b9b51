"""The buffers of a frozen parameter, which a State lacks and other libraries have."""

from typing import Any

import jax
import numpy as np

from optadamw.base.errors import at_leaf


def of_frozen(field: str, path: str, param: Any) -> Any:
    """Return the numbers of a buffer of a frozen parameter.

    Its average is the parameter, which never changed; all else is zeros, as where no
    gradient ever came.

    Raises:
      ValueError: the average is needed, and only the shape of the parameter is known.
    """
    if field != "ema":
        return np.zeros(np.shape(param), np.float32)
    if isinstance(param, jax.ShapeDtypeStruct):
        raise at_leaf(
            path,
            "it is frozen, so that its average is the parameter; `params` has only its "
            "shape.",
            "Pass the parameters, or lose the average with drop=('ema',).",
        )
    return param
