"""`AdamW` of Optimisers.jl (Flux): a rule on one array, in a chain of such rules."""

from collections.abc import Iterable

import numpy as np

from tests.peers.rows import Row
from tests.peers.streams import Tree

DEFAULTS = {
    "eta": 0.001,
    "beta": (0.9, 0.999),
    "lambda": 0.0,
    "epsilon": 1e-8,
    "couple": True,
}


def follow(
    peer: str, row: Row, params: Tree, grads: Iterable[Tree], scalars: str
) -> tuple[list[Tree], dict[str, Tree]]:
    """Follow one row; leaves know nothing of each other."""
    del peer, scalars
    leaves = {name: _Leaf(row) for name in params}
    result = []
    for call, tree in enumerate(grads):
        params = {
            name: leaves[name].apply(x, tree[name], call) for name, x in params.items()
        }
        result.append(params)
    mu = {name: leaf.m for name, leaf in leaves.items()}
    return result, {"mu": mu, "nu": {name: leaf.v for name, leaf in leaves.items()}}


class _Leaf:
    def __init__(self, row: Row):
        self.hyper = {**DEFAULTS, **row.kwargs}
        self.chain = row.outside.get("chain", ())
        self.adjust = row.outside.get("adjust")
        self.m = self.v = self.sum = 0.0
        self.powers = tuple(self.hyper["beta"])  # of the first step, not 1
        self.calls = 0

    def apply(self, x: np.ndarray, g: np.ndarray, call: int) -> np.ndarray:
        for rule, limit in self.chain:
            if rule == "ClipGrad":
                g = np.clip(g, -limit, limit)
            elif rule == "ClipNorm":
                g = g * min(limit / np.sqrt(np.sum(g * g)), 1.0)
            else:  # AccumGrad
                self.sum = (self.sum if call % limit else 0.0) + g / limit
                if (call + 1) % limit:
                    return x
                g = self.sum
        eta = self.adjust(call) if self.adjust else self.hyper["eta"]
        return x - self._change(x, g, eta)

    def _change(self, x: np.ndarray, g: np.ndarray, eta: float) -> np.ndarray:
        b1, b2 = self.hyper["beta"]
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g * g
        root = np.sqrt(self.v / (1 - self.powers[1])) + self.hyper["epsilon"]
        direction = self.m / (1 - self.powers[0]) / root
        self.powers = (self.powers[0] * b1, self.powers[1] * b2)
        if self.hyper["couple"]:
            return eta * (direction + self.hyper["lambda"] * x)
        return eta * direction + self.hyper["lambda"] * x
