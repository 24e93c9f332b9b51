"""The guides of the dialects: what they say of the other library is run in it.

Each guide trains twice, there ("python before") and here ("python"), and both leave
their losses in `losses`.
"""

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optadamw.dialects.catalogue import CALLS

FOLDER = Path(__file__).parents[2] / "docs" / "reference" / "dialects"

# Guide -> what has to be there, and how it is called.
PEERS = {
    "keras": ("keras", "Keras"),
    "torch": ("torch", "PyTorch"),
    "tensorflow": ("tf_keras", "TensorFlow with Keras 2"),
    "tensorflow_addons": ("tensorflow_addons", "TensorFlow Addons"),
    "mlx": ("mlx", "MLX"),
    "optax": ("optax", "Optax"),
    "paper": ("numpy", "NumPy"),
    "optimi": ("optimi", "optimi"),
    "timm": ("timm", "timm"),
}
NOT_PYTHON = {"r_keras3": "r", "flux": "julia"}
TOLERANCE = 1e-4
"""Relative. Where powers of beta are formed in float32, the first steps are off by
1.3e-5, and the losses by up to 5e-5."""


def _blocks(guide: str, info: str) -> list[str]:
    text = (FOLDER / f"{guide}.md").read_text()
    return re.findall(rf"^```{info}\n(.*?)^```", text, re.M | re.S)


def _losses(guide: str, info: str) -> np.ndarray:
    namespace: dict[str, Any] = {"__name__": "snippet"}
    for block in _blocks(guide, info):
        exec(compile(block, f"{guide}.md", "exec"), namespace)
    return np.array([float(loss) for loss in namespace["losses"]])


def test_every_peer_has_a_guide():
    assert sorted(PEERS | NOT_PYTHON) == sorted(CALLS)
    for guide, language in NOT_PYTHON.items():
        assert _blocks(guide, language)


@pytest.mark.parametrize("guide", PEERS)
def test_losses_are_those_of_the_other_library(guide, monkeypatch):
    package, title = PEERS[guide]
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")  # tf.keras is Keras 2
    try:
        importlib.import_module(package)
    except ImportError:  # it, or what it imports: timm needs torchvision
        pytest.skip(f"{title} is not installed")
    there, here = _losses(guide, "python before"), _losses(guide, "python")
    assert there.shape == here.shape
    np.testing.assert_allclose(here, there, rtol=TOLERANCE)
