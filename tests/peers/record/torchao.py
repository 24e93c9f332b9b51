"""Record torchao's low-bit AdamW on leaves too small to be quantised.

`step` compiles the step of one parameter, with a C++ compiler on the CPU. Compiling is
switched off, so that every operation rounds to float32 by itself, as it reads.
"""

import os

os.environ["TORCHDYNAMO_DISABLE"] = "1"

import torch
import torchao.optim
import torchao.optim.adam

from tests.peers.record.torch_loop import Loop
from tests.peers.record.writing import keep, versions
from tests.peers.recording import Run
from tests.peers.rows import Row


def run(row: Row, double: bool) -> Run:
    """Run one row; inside, everything is cast to float32."""
    if double:
        raise TypeError("the step casts everything to float32")
    module = torchao.optim.adam if row.function == "_AdamW" else torchao.optim
    return Loop(row, getattr(module, row.function)).run()


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep("torchao", versions("torchao", "torch", "numpy"), run)
