"""Record `optax.adamw`, `nadamw`, `amsgrad` and the wrappers people put around."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import jax

from tests.peers.record.optax_loop import Loop
from tests.peers.record.writing import keep, versions
from tests.peers.recording import Run
from tests.peers.rows import Row


def run(row: Row, double: bool) -> Run:
    """Run one row; float64 exists in JAX only where it is switched on."""
    jax.config.update("jax_enable_x64", double)
    return Loop(row, double).run()


if __name__ == "__main__":
    keep("optax", versions("optax", "jax", "jaxlib", "numpy"), run)
