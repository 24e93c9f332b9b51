"""Record bitsandbytes' 32-bit CPU kernel, and the 8-bit class's small leaves."""

import bitsandbytes
import torch

from tests.peers.record.torch_loop import BUFFERS, Loop
from tests.peers.record.writing import keep, versions
from tests.peers.recording import Run
from tests.peers.rows import Row

BUFFERS.update(state1="mu", state2="nu")


def run(row: Row, double: bool) -> Run:
    """Run one row; the kernels know no float64."""
    if double:
        raise TypeError("the kernels take float32, float16 and bfloat16 only")
    return Loop(row, getattr(bitsandbytes.optim, row.function)).run()


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep("bitsandbytes", versions("bitsandbytes", "torch", "numpy"), run)
