"""Every peer's optimizer in float64 NumPy, transcribed from its published formula.

Written from the formulas and not from the peers' code, so that a recording and its
transcription agreeing says something about both. `scalars` says in what the small
numbers (powers of beta, rates) are formed, which decides the sixth digit of a step:

    "exact"     doubles throughout: the formula itself
    "float32"   as the peer's float32 run does it; only arrays are in float64
    "float64"   as the peer's float64 run does it: some keep a float32 rate even there
"""

from collections.abc import Callable

import numpy as np

from tests.peers.float64 import flux, keras, mlx, optax, paper, torch
from tests.peers.rows import Row
from tests.peers.streams import Tree

Followed = tuple[list[Tree], dict[str, Tree]]
TRANSCRIPTIONS: dict[str, Callable[..., Followed]] = {
    "torch": torch.follow,
    "timm": torch.follow,
    "optimi": torch.follow,
    "torchao": torch.follow,
    "bitsandbytes": torch.follow,
    "bitsandbytes_cuda": torch.follow,
    "keras_jax": keras.follow,
    "keras_torch": keras.follow,
    "tf_keras": keras.follow,
    "tfa": keras.follow,
    "mlx": mlx.follow,
    "optax": optax.follow,
    "flux": flux.follow,
    "paper": paper.follow,
}


def trajectory(
    peer: str, row: Row, params: Tree, grads: list[Tree], scalars: str = "exact"
) -> list[Tree]:
    """Return the parameters after every call, in float64.

    Args:
        peer: name of the recording.
        row: one of its rows.
        params: initial parameters.
        grads: what `feed.feed(row)` gives: one tree per call.
        scalars: "exact", "float32" or "float64", see above.
    """
    return _follow(peer, row, params, grads, scalars)[0]


def final(
    peer: str, row: Row, params: Tree, grads: list[Tree], scalars: str = "exact"
) -> dict[str, Tree]:
    """Return the buffers after the last call: `mu`, `nu`, and those that exist."""
    return _follow(peer, row, params, grads, scalars)[1]


def _follow(
    peer: str, row: Row, params: Tree, grads: list[Tree], scalars: str
) -> Followed:
    if scalars not in ("exact", "float32", "float64"):
        raise ValueError(f"unknown arithmetic of the scalars: {scalars!r}")
    with np.errstate(divide="ignore", invalid="ignore"):
        return TRANSCRIPTIONS[peer](peer, row, wide(params), map(wide, grads), scalars)


def wide(tree: Tree) -> Tree:
    """Cast every leaf to float64 (complex128), copying."""
    return {
        name: np.array(leaf, np.complex128 if np.iscomplexobj(leaf) else np.float64)
        for name, leaf in tree.items()
    }
