"""Write the trajectories of peers that could not be run: the transcription itself.

Optimisers.jl needs Julia, the paper's code Torch7, the CUDA kernels of bitsandbytes a
GPU of NVIDIA's. What is written says nothing that `float64` does not; it is there so
that a test reads all peers alike, and its metadata says `transcription: true`.
"""

import numpy as np

from tests.peers.feed import feed
from tests.peers.float64 import final, trajectory
from tests.peers.record.writing import keep, versions
from tests.peers.recording import Run
from tests.peers.rows import Row
from tests.peers.streams import Tree

PEERS = ("bitsandbytes_cuda", "flux", "paper")


def runner(peer: str):
    """Return what stands for a run: float64, for the other rounded to float32."""

    def run(row: Row, double: bool) -> Run:
        trees = trajectory(peer, row, *feed(row))
        buffers = final(peer, row, *feed(row))
        found = {name: _single(tree) for name, tree in buffers.items() if name != "ema"}
        return Run(trees if double else [_single(tree) for tree in trees], found, {})

    return run


def _single(tree: Tree) -> Tree:
    return {name: np.float32(leaf) for name, leaf in tree.items()}


if __name__ == "__main__":
    for peer in PEERS:
        keep(peer, versions("numpy"), runner(peer), transcription=True)
