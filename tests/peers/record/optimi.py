"""Record `optimi.AdamW` on the CPU: its loop and its foreach path."""

import optimi
import torch

from tests.peers.record.torch_loop import Loop
from tests.peers.record.writing import keep, versions
from tests.peers.recording import Run
from tests.peers.rows import Row


def run(row: Row, double: bool) -> Run:
    """Run one row."""
    loop = Loop(row, optimi.AdamW, double)
    run = loop.run()
    steps = [int(group["step"]) for group in loop.optimizer.param_groups]
    return run._replace(scalars={"group_step": steps})


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep("optimi", versions("torch-optimi", "torch", "numpy"), run)
