"""Check the saved states: they lie on the recorded trajectories, and decode.

Run as `python -m tests.peers.verify_states`. A state was saved in the middle of a row,
so its parameters and the ten calls after it must be the recording's, bit for bit. The
low-bit states have no row: their codes must decode to what the package decoded, and
PyTorch's formula, from the decoded moments, must give the next call's parameters.
"""

import sys

import numpy as np

from tests.peers import low_bit, recording, saved
from tests.peers.float64 import torch_rules
from tests.peers.rows import ROWS
from tests.peers.streams import flatten

# The codes are exact; the step from them rounds a few times in float32.
NEXT_STEP = 1e-6


def on_the_recording(state: saved.Saved) -> float:
    """Return the largest distance from the recorded row, over the leaves it has."""
    name = next(name for name, row in ROWS[state.peer].items() if row is state.row)
    recorded = recording.load(state.peer)[name]
    trees = [recorded.tree(flat) for flat in recorded.params[: 2 * saved.CALLS]]
    kept = [flatten({leaf: tree[leaf] for leaf in state.params}) for tree in trees]
    distance = np.abs(flatten(state.params) - kept[saved.CALLS - 1]).max()
    return float(max(distance, np.abs(state.after - kept[saved.CALLS :]).max()))


def next_step(state: saved.Saved) -> float:
    """Return the distance of the formula's next step from the package's.

    Relative to the parameter: a second moment whose code is zero makes huge steps.
    """
    _, grads = low_bit.load()
    m, v = decoded(state)
    buffers = {"mu": np.float64(m), "nu": np.float64(v)}
    hyper = dict.fromkeys(("amsgrad", "maximize", "float32_powers", "narrow"), False)
    hyper |= low_bit.KWARGS
    x, g = (np.float64(a) for a in (state.params["kernel"], grads[low_bit.SAVED_AFTER]))
    new = torch_rules.torch(x, g, buffers, hyper, low_bit.SAVED_AFTER + 1)
    distance = np.abs(new - state.after[0].reshape(new.shape))
    return float(np.max(distance / np.maximum(np.abs(new), np.abs(x))))


def decoded(state: saved.Saved) -> list[np.ndarray]:
    """Return both moments as the package decoded them."""
    if state.peer == "bitsandbytes":
        return [state.state[f"decoded{i}"] for i in (1, 2)]
    return [state.state[key]["decoded"] for key in ("exp_avg", "exp_avg_sq")]


def decodes(state: saved.Saved) -> bool:
    """Decode codes by scale and map, where there is a map of 256 values."""
    if state.peer == "bitsandbytes":
        keys = [(f"state{i}", f"absmax{i}", f"qmap{i}") for i in (1, 2)]
        parts = [tuple(state.state[key] for key in moment) for moment in keys]
    elif state.about["function"] == "AdamW8bit":
        moments = (state.state[key] for key in ("exp_avg", "exp_avg_sq"))
        parts = [(part["codes"], part["scale"], part["qmap"]) for part in moments]
    else:
        return True
    for (codes, scale, table), expected in zip(parts, decoded(state), strict=True):
        blocks = table[codes.reshape(scale.size, -1)] * scale.reshape(-1, 1)
        if not np.array_equal(blocks.reshape(-1), expected.reshape(-1)):
            return False
    return True


if __name__ == "__main__":
    wrong = 0
    for name in saved.names():
        state = saved.load(name)
        if state.row is None:
            distance = next_step(state)
            fine = distance < NEXT_STEP and decodes(state)
        else:
            distance = on_the_recording(state)
            fine = distance == 0.0
        wrong += not fine
        print(f"{name:28}{distance:10.2e}{'' if fine else '   wrong'}")
    sys.exit(f"{wrong} states wrong" if wrong else 0)
