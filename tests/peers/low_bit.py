"""The leaf and the gradients of the 8-bit and 4-bit states: large enough for blocks.

Packages quantise a leaf from 4096 elements on, in blocks of 128 or 256. Gradients are
small integers times a power of two per row, so that a block holds several magnitudes
and the saved stream stays small; it lies in `states/low_bit_stream.npz`.
"""

import pathlib

import numpy as np

SHAPE = (40, 128)
CALLS = 20
SAVED_AFTER = 10
CHECKED = (11, 20)  # calls after which the parameters are kept
# A second moment far below its block's largest decodes to zero; with a small epsilon
# the step would then be in the hundreds, and the saved run a study of that alone.
KWARGS = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.1}
FILE = pathlib.Path(__file__).parent / "states" / "low_bit_stream.npz"


def make(seed: int = 2028) -> tuple[np.ndarray, np.ndarray]:
    """Draw the parameter and its gradients, one per call."""
    generator = np.random.default_rng(seed)
    param = np.round(generator.normal(size=SHAPE) * 64) / 64
    numbers = generator.integers(-8, 9, size=(CALLS, *SHAPE))
    rows = 2.0 ** generator.integers(-8, 3, size=(SHAPE[0], 1))
    inside = 2.0 ** -generator.integers(0, 7, size=SHAPE)
    return np.float32(param), np.float32(numbers * rows * inside)


def save() -> None:
    """Write the stream; done once, before the first recording."""
    param, grads = make()
    np.savez_compressed(FILE, param=param, grads=grads)


def load() -> tuple[np.ndarray, np.ndarray]:
    """Read the parameter and the gradients."""
    with np.load(FILE) as file:
        return file["param"], file["grads"]


if __name__ == "__main__":
    save()
