"""The AdamW of other libraries, called as there.

Each module belongs to one library, a peer. It has the peer's function name, argument
names, order and defaults, and imports and exports the peer's saved state:

    from optadamw.dialects import torch
    tx = torch.AdamW(lr=1e-3, weight_decay=0.01)

`optadamw dialects` and docs/reference/dialects.md show all of them.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from optadamw.base.lazy import lazily as _lazily

if _TYPE_CHECKING:
    from optadamw.dialects import bitsandbytes as bitsandbytes
    from optadamw.dialects import flux as flux
    from optadamw.dialects import keras as keras
    from optadamw.dialects import mlx as mlx
    from optadamw.dialects import optax as optax
    from optadamw.dialects import optimi as optimi
    from optadamw.dialects import paper as paper
    from optadamw.dialects import r_keras3 as r_keras3
    from optadamw.dialects import tensorflow as tensorflow
    from optadamw.dialects import tensorflow_addons as tensorflow_addons
    from optadamw.dialects import timm as timm
    from optadamw.dialects import torch as torch
    from optadamw.dialects import torchao as torchao

__all__ = [
    "bitsandbytes",
    "flux",
    "keras",
    "mlx",
    "optax",
    "optimi",
    "paper",
    "r_keras3",
    "tensorflow",
    "tensorflow_addons",
    "timm",
    "torch",
    "torchao",
]

__getattr__, __dir__ = _lazily(
    __name__, {name: f"optadamw.dialects.{name}" for name in __all__}, __all__
)
