"""Save states of Keras 3's optimizer: its store, its variables' paths, a model file.

Run once per backend, with KERAS_BACKEND=jax or torch.
"""

import keras
import numpy as np

from tests.peers.feed import feed
from tests.peers.record.keras_loop import Loop, array_of
from tests.peers.record.saving import follow
from tests.peers.record.writing import versions
from tests.peers.rows import ROWS
from tests.peers.saved import FOLDER

BACKEND = keras.backend.backend()
PEER = f"keras_{BACKEND}"
# Ten calls are not a multiple of three: the accumulators hold something.
STATES = {
    f"{PEER}_amsgrad": "amsgrad",
    f"{PEER}_accumulation": "accumulation_ema_overwrite",
    f"{PEER}_loss_scale": "loss_scale_optimizer_ema",
}


def take(loop: Loop):
    """Return what `save_own_variables` puts into a file, and the variables' names."""
    optimizer = loop.optimizer
    # The variables' store, as the file keeps it; LossScaleOptimizer's has the inner's
    # variables after its own, as its `variables` have.
    store = {
        str(i): array_of(variable.value)
        for i, variable in enumerate(optimizer.variables)
    }
    own: dict = {}
    optimizer.save_own_variables(own)
    about = {
        "paths": [variable.path for variable in optimizer.variables],
        "names": [variable.name for variable in optimizer.variables],
        "config": keras.optimizers.serialize(optimizer),
        "own_keys": list(own),
        "parameters": list(loop.variables),
    }
    return store, np.array, about


class ModelLoop:
    """The optimizer inside a model whose two layers are the leaves of `a` and `b`."""

    def __init__(self, row):
        stream = feed(row)
        self.grads = stream.grads
        names = {"a/kernel": 0, "a/bias": 1, "b/kernel": 2, "b/bias": 3}
        self.names = list(names)
        layers = [keras.layers.Dense(4, name="a"), keras.layers.Dense(3, name="b")]
        self.model = keras.Sequential([keras.Input((5,)), *layers], name="small")
        self.model.compile(optimizer=keras.optimizers.AdamW(**row.kwargs), loss="mse")
        self.model.set_weights([stream.params[name] for name in self.names])
        self.optimizer = self.model.optimizer
        self.variables = self.model.trainable_variables
        self.optimizer.build(self.variables)

    def call(self, grads):
        given = [keras.ops.convert_to_tensor(grads[name]) for name in self.names]
        self.optimizer.apply(given, self.variables)

    def values(self):
        kept = zip(self.names, self.variables, strict=True)
        return {name: array_of(variable.value) for name, variable in kept}


def take_model(loop: ModelLoop):
    """Save the model as a `.keras` file, and say what lies where in it."""
    loop.model.save(FOLDER / f"{PEER}_model.keras")
    store = {
        str(i): array_of(variable.value)
        for i, variable in enumerate(loop.optimizer.variables)
    }
    about = {
        "paths": [variable.path for variable in loop.optimizer.variables],
        "parameters": loop.names,
        "where": "model.weights.h5: /optimizer/vars/<i>",
    }
    return store, np.array, about


if __name__ == "__main__":
    packages = versions("keras", BACKEND, "numpy")
    for name, row in STATES.items():
        follow(name, PEER, row, packages, Loop(ROWS[PEER][row]), take)
    if BACKEND == "jax":
        loop = ModelLoop(ROWS[PEER]["amsgrad"])
        follow(f"{PEER}_model", PEER, "amsgrad", packages, loop, take_model)
