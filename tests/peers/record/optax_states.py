"""Save states of Optax: the leaves by their path, and the types by their names."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import jax

from tests.peers.record.optax_loop import Loop, array_of
from tests.peers.record.saving import follow
from tests.peers.record.writing import versions
from tests.peers.rows import ROWS

STATES = {
    "optax_adamw": "betas",
    "optax_schedule_both": "schedule_both",
    "optax_amsgrad": "amsgrad",
    "optax_multi_steps": "everything",
}


def take(loop: Loop):
    """Return {path: array}; `tree` prints the nesting of named tuples."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(loop.state)
    state = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    return state, array_of, {"tree": str(tree)}


if __name__ == "__main__":
    for name, row in STATES.items():
        packages = versions("optax", "jax", "numpy")
        follow(name, "optax", row, packages, Loop(ROWS["optax"][row]), take)
