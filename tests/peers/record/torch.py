"""Record `torch.optim.AdamW` on the CPU: its loops, its fused kernel, its scaler."""

import torch

from tests.peers.record.torch_loop import Loop
from tests.peers.record.writing import keep, versions
from tests.peers.recording import Run
from tests.peers.rows import Row


def run(row: Row, double: bool) -> Run:
    """Run one row; in float64 the parameters and the tensor arguments are float64."""
    return Loop(row, torch.optim.AdamW, double).run()


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep("torch", versions("torch", "numpy"), run)
