"""Save states of timm's and optimi's optimizers, as `state_dict()` gives them."""

import copy

import optimi

from tests.peers.record.saving import follow
from tests.peers.record.timm import FUNCTIONS
from tests.peers.record.torch_loop import Loop, array_of
from tests.peers.record.writing import versions
from tests.peers.rows import ROWS

STATES = {
    "timm_amsgrad": ("timm", "amsgrad_single"),
    "timm_nadamw": ("timm", "nadamw_groups"),
    "optimi_groups": ("optimi", "groups"),
    "optimi_kahan": ("optimi", "bfloat16_kahan"),
}


def take(loop: Loop):
    """Copy the state; optimi's step counts are in its groups."""
    state = copy.deepcopy(loop.optimizer.state_dict())
    return state, array_of, {"parameters": list(loop.params)}


if __name__ == "__main__":
    for name, (peer, row) in STATES.items():
        configuration = ROWS[peer][row]
        make = optimi.AdamW
        if peer == "timm":
            make = FUNCTIONS[configuration.function]
        package = {"timm": "timm", "optimi": "torch-optimi"}[peer]
        loop = Loop(configuration, make)
        follow(name, peer, row, versions(package, "torch", "numpy"), loop, take)
