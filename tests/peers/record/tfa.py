"""Record `tensorflow_addons.optimizers.AdamW`."""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow_addons as tfa

from tests.peers.record.tensorflow_loop import Loop
from tests.peers.record.writing import keep, versions
from tests.peers.recording import Run
from tests.peers.rows import Row


def run(row: Row, double: bool) -> Run:
    """Run one row eagerly."""
    return Loop(row, tfa.optimizers.AdamW, double).run()


if __name__ == "__main__":
    packages = versions("tensorflow-addons", "tensorflow-cpu", "keras", "numpy")
    keep("tfa", packages, run)
