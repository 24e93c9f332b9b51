"""Record `mlx.optimizers.AdamW` on the CPU."""

import mlx.core as mx

from tests.peers.record.mlx_loop import Loop
from tests.peers.record.writing import keep, versions
from tests.peers.recording import Run
from tests.peers.rows import Row


def run(row: Row, double: bool) -> Run:
    """Run one row; only the CPU's streams know float64."""
    return Loop(row, double).run()


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)
    keep("mlx", versions("mlx", "numpy"), run)
