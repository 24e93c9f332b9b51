"""Save states of MLX's AdamW: the flat state, and the safetensors file of it."""

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten

from tests.peers.record.mlx_loop import Loop, array_of
from tests.peers.record.saving import follow
from tests.peers.record.writing import versions
from tests.peers.rows import ROWS
from tests.peers.saved import FOLDER

STATES = {
    "mlx_corrected": "bias_correction",
    "mlx_schedule": "schedule",
    "mlx_multi_optimizer": "multi_optimizer",
}


def parts(name: str):
    """Return what takes the state; one optimizer's is also written as a file."""

    def take(loop: Loop):
        if isinstance(loop.optimizer, optim.MultiOptimizer):
            state = [dict(tree_flatten(p.state)) for p in loop.optimizer.optimizers]
        else:
            state = dict(tree_flatten(loop.optimizer.state))
            mx.save_safetensors(str(FOLDER / f"{name}.safetensors"), state)
        return state, array_of, {}

    return take


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)
    for name, row in STATES.items():
        loop = Loop(ROWS["mlx"][row])
        follow(name, "mlx", row, versions("mlx", "numpy"), loop, parts(name))
