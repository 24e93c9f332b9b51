"""Save states of torchao's and bitsandbytes' low-bit AdamW after ten steps.

Kept are the arrays as the package stores them (codes, scales, maps) and the moments as
the package itself decodes them, so that a decoder can be tested against both.
"""

import os

os.environ["TORCHDYNAMO_DISABLE"] = "1"

import bitsandbytes
import bitsandbytes.functional as functional
import numpy as np
import torch
import torchao.optim

from tests.peers import low_bit
from tests.peers.record.saving import structure, write
from tests.peers.record.writing import versions

TORCHAO = {
    "torchao_8bit": "AdamW8bit",
    "torchao_4bit": "AdamW4bit",
    "torchao_fp8": "AdamWFp8",
}


def array_of(tensor: torch.Tensor) -> np.ndarray:
    """Return a copy; 8-bit floats as their bits."""
    if tensor.dtype == torch.float8_e4m3fn:
        tensor = tensor.view(torch.uint8)
    return np.array(tensor.detach())


def torchao_state(optimizer, param) -> dict:
    """Return the attributes of each buffer, and what it decodes to."""
    state = dict(optimizer.state[param])
    found = {"step": state.pop("step")}
    for key, buffer in state.items():
        fields = ("codes", "scale", "qmap", "signed", "block_size")
        found[key] = {
            field: getattr(buffer, field) for field in fields if hasattr(buffer, field)
        }
        found[key]["decoded"] = buffer.dequantize()
    return found


def bitsandbytes_state(optimizer, param) -> dict:
    """Return the state as it is kept, and what each moment decodes to."""
    found = dict(optimizer.state[param])
    for i in (1, 2):
        found[f"decoded{i}"] = functional.dequantize_blockwise(
            found[f"state{i}"],
            absmax=found[f"absmax{i}"],
            code=found[f"qmap{i}"],
            blocksize=256,
        )
    return found


def follow(name: str, peer: str, function: str, make, take, package: str) -> None:
    """Run twenty steps; save after ten."""
    start, grads = low_bit.load()
    param = torch.nn.Parameter(torch.tensor(start))
    optimizer = make([param], **low_bit.KWARGS)
    arrays: dict[str, np.ndarray] = {}
    described, after = None, []
    for call, g in enumerate(grads, 1):
        param.grad = torch.tensor(g)
        optimizer.step()
        if call == low_bit.SAVED_AFTER:
            described = structure(take(optimizer, param), array_of, arrays)
            arrays["params/kernel"] = array_of(param)
        if call in low_bit.CHECKED:
            after.append(array_of(param).reshape(-1))
    arrays["after"] = np.stack(after)
    about = {
        "function": function,
        "kwargs": low_bit.KWARGS,
        "after_calls": low_bit.CHECKED,
    }
    packages = versions(package, "torch", "numpy")
    write(name, peer, None, packages, described, arrays, about)


if __name__ == "__main__":
    for name, function in TORCHAO.items():
        make = getattr(torchao.optim, function)
        follow(name, "torchao", function, make, torchao_state, "torchao")
    follow(
        "bitsandbytes_8bit",
        "bitsandbytes",
        "AdamW8bit",
        bitsandbytes.optim.AdamW8bit,
        bitsandbytes_state,
        "bitsandbytes",
    )
