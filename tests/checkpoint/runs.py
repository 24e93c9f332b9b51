"""Short runs, to be saved and restored."""

from functools import partial
from typing import Any

import optadamw
from tests.support import trees

adamw = partial(optadamw.adamw, 0.03)
"""With a learning rate, so that the rows show what is changed."""


def run(tx: Any, calls: int) -> tuple[Any, Any]:
    params = trees.normal(trees.FLOATS, seed=0)
    state = tx.init(params)
    for i in range(calls):
        grads = trees.normal(trees.FLOATS, seed=1 + i)
        params, state = optadamw.step(tx, grads, state, params)
    return params, state
