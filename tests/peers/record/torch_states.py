"""Save states of `torch.optim.AdamW`, as `state_dict()` gives them, and as files."""

import copy

import torch

from tests.peers.record.saving import follow
from tests.peers.record.torch_loop import Loop, array_of
from tests.peers.record.writing import versions
from tests.peers.rows import ROWS
from tests.peers.saved import FOLDER

# The late one has no entry for "scale" yet, and one step count per parameter later.
STATES = {
    "torch_amsgrad": "amsgrad_single",
    "torch_groups": "groups",
    "torch_late_gradient": "late_gradient",
    "torch_bfloat16": "bfloat16_fused",
}


def parts(name: str):
    """Return what takes the state of a loop, and writes the file where one is kept."""

    def take(loop: Loop):
        state = copy.deepcopy(loop.optimizer.state_dict())
        if name in ("torch_amsgrad", "torch_bfloat16"):
            torch.save(state, FOLDER / f"{name}.pt")
        return state, array_of, {"parameters": list(loop.params)}

    return take


if __name__ == "__main__":
    packages = versions("torch", "numpy")
    for name, row in STATES.items():
        loop = Loop(ROWS["torch"][row], torch.optim.AdamW)
        follow(name, "torch", row, packages, loop, parts(name))
