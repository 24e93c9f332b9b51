"""Record `keras.optimizers.AdamW` on the PyTorch backend."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import torch

from tests.peers.record.keras_loop import Loop
from tests.peers.record.writing import keep, versions
from tests.peers.recording import Run
from tests.peers.rows import Row


def run(row: Row, double: bool) -> Run:
    """Run one row on the CPU."""
    return Loop(row, double).run()


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep("keras_torch", versions("keras", "torch", "numpy"), run)
