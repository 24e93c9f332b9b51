"""Record `tf.keras.optimizers.AdamW` of TensorFlow 2.14, which is Keras 2."""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf

from tests.peers.record.tensorflow_loop import Loop
from tests.peers.record.writing import keep, versions
from tests.peers.recording import Run
from tests.peers.rows import Row


def run(row: Row, double: bool) -> Run:
    """Run one row eagerly."""
    return Loop(row, tf.keras.optimizers.AdamW, double).run()


if __name__ == "__main__":
    keep("tf_keras", versions("tensorflow-cpu", "keras", "numpy"), run)
