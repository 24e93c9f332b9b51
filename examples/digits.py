"""Load scikit-learn's handwritten digits; all examples train on them."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

BATCH = 64
EPOCHS = 30
STEPS = EPOCHS * (1437 // BATCH)


def load():
    """Return (images, labels) for training and for test: 1,437 and 360 images."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(
        images / 16, labels, test_size=360, stratify=labels, random_state=0
    )
    training, test = ((parts[0], parts[2]), (parts[1], parts[3]))
    return _arrays(*training), _arrays(*test)


def batches(training, seed=0):
    """Yield `STEPS` shuffled batches, which make `EPOCHS` passes over the images."""
    images, labels = training
    generator = np.random.default_rng(seed)
    for _ in range(EPOCHS):
        order = generator.permutation(len(labels))
        for rows in order[: len(order) // BATCH * BATCH].reshape(-1, BATCH):
            yield images[rows], labels[rows]


def _arrays(images, labels):
    return images.astype(np.float32), labels.astype(np.int32)
