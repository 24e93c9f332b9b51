"""Save states of tf.keras's and Addons' AdamW: their variables in order, with names."""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf
import tensorflow_addons as tfa

from tests.peers.record.saving import follow
from tests.peers.record.tensorflow_loop import Loop, array_of
from tests.peers.record.writing import versions
from tests.peers.rows import ROWS

STATES = {
    "tf_keras_amsgrad": ("tf_keras", "amsgrad"),
    "tf_keras_ema": ("tf_keras", "ema_overwrite"),
    "tf_keras_loss_scale": ("tf_keras", "loss_scale_optimizer_ema"),
    "tfa_amsgrad": ("tfa", "amsgrad"),
    "tfa_everything": ("tfa", "everything"),
}


def take(loop: Loop):
    """Return the variables in the optimizer's order; Addons' are its `get_weights`."""
    optimizer = loop.optimizer
    kept = optimizer.variables
    kept = kept() if callable(kept) else kept
    # Neither the rate of tf.keras nor the loss scale is among the variables.
    about = {
        "scalars": loop.scalars(),
        "names": [variable.name for variable in kept],
        "parameters": [variable.name for variable in loop.variables.values()],
    }
    return [variable.value() for variable in kept], array_of, about


if __name__ == "__main__":
    packages = versions("tensorflow-cpu", "tensorflow-addons", "keras", "numpy")
    for name, (peer, row) in STATES.items():
        module = tf.keras if peer == "tf_keras" else tfa
        loop = Loop(ROWS[peer][row], module.optimizers.AdamW)
        follow(name, peer, row, packages, loop, take)
