"""Record timm's `AdamWLegacy` and `NAdamW` on the CPU.

`import timm` loads its models, and with them torchvision and Pillow; its optimizers
need neither. So the two files of the optimizers are loaded from the installed package
with an empty stand-in for the packages they lie in, and nothing else of timm.
"""

import importlib
import importlib.util
import sys
import types

import torch

from tests.peers.record.torch_loop import Loop
from tests.peers.record.writing import keep, versions
from tests.peers.recording import Run
from tests.peers.rows import Row


def _stand_in(name: str, path: list[str]) -> None:
    package = types.ModuleType(name)
    package.__path__ = path
    sys.modules[name] = package


_found = importlib.util.find_spec("timm")  # finds the folder, runs nothing of it
_folder = next(iter(_found.submodule_search_locations))
_stand_in("timm", [_folder])
_stand_in("timm.optim", [f"{_folder}/optim"])

AdamWLegacy = importlib.import_module("timm.optim.adamw").AdamWLegacy
NAdamW = importlib.import_module("timm.optim.nadamw").NAdamW
FUNCTIONS = {"AdamWLegacy": AdamWLegacy, "NAdamW": NAdamW}


def run(row: Row, double: bool) -> Run:
    """Run one row."""
    return Loop(row, FUNCTIONS[row.function], double).run()


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep("timm", versions("timm", "torch", "numpy"), run)
