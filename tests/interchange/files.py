"""A trained state, its files, and the command that converts them."""

import argparse
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from optadamw.cli.convert import arguments, command
from optadamw.dialects.files import safetensors
from tests.interchange import cases

try:
    import torch
except ImportError:
    torch = None


needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")
PARAMS = {"a/kernel": (4, 3), "b/kernel": (4, 3), "scale": ()}
"""Flat, as files have them; two alike, so that an order matters."""

NAMES = ["scale", "b/kernel", "a/kernel"]


def trained(**options: Any) -> Any:
    tx = cases.adamw(**options)
    params, state = cases.trained(tx, cases.normal(PARAMS, jnp.float32, 0), 3)
    return tx, params, state


def written(path: Path, arrays: Any, metadata: Any = ()) -> Path:
    with open(path, "wb") as file:
        safetensors.write(file, arrays, dict(metadata))
    return path


def convert(*words: Any) -> int:
    """Run `optadamw convert` with these words of the command line."""
    parser = argparse.ArgumentParser()
    arguments.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]))


def prepared(folder: Path, **options: Any) -> Any:
    """A state, its parameters and the order of the other library, in files."""
    tx, params, state = trained(**options)
    written(
        folder / "params.safetensors", {k: np.asarray(p) for k, p in params.items()}
    )
    (folder / "names.json").write_text(json.dumps(NAMES))
    return tx, params, state


def state_dict(shapes, names=None, groups=1):
    """A state dict of PyTorch with a number of its own in each moment."""
    state = {
        i: {
            "step": np.float32(3),
            "exp_avg": np.full(shape, i + 1, np.float32),
            "exp_avg_sq": np.full(shape, i + 1, np.float32),
        }
        for i, shape in enumerate(shapes)
    }
    places = np.array_split(np.arange(len(shapes)), groups)
    made = [
        {"lr": 0.003, "betas": (0.9, 0.99), "params": [int(i) for i in part]}
        for part in places
    ]
    if names is not None:
        made[0]["param_names"] = names
    return {"state": state, "param_groups": made}
