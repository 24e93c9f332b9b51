"""Keras in processes of their own: on another backend, and on several devices."""

import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import numpy as np
import pytest

import optadamw
from optadamw import adamw

keras = pytest.importorskip("keras", reason="Keras is not installed")
from optadamw.integrations.keras import Optimizer  # noqa: E402
from tests.integrations.test_keras import fitted  # noqa: E402

ROOT = Path(__file__).parents[2]


def python(program, **environment):
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_another_backend_is_refused_in_words():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    program = (
        "import optadamw\n"
        "from optadamw.integrations.keras import Optimizer\n"
        "Optimizer(optadamw.adamw(0.1))\n"
    )
    done = python(program, KERAS_BACKEND="torch")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "RuntimeError: optadamw.integrations.keras needs the JAX backend of Keras; got "
        "'torch'. Set the environment variable KERAS_BACKEND=jax before keras is "
        "imported."
    )


def test_data_parallel_is_the_training_on_one_device():
    name = "tests.integrations.test_keras_processes"
    done = python(
        f"import {name} as t\nt.train_on_all_devices()\n",
        KERAS_BACKEND="jax",
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )
    assert done.returncode == 0, done.stderr


def train_on_all_devices():
    """Compare a fit on four devices with one on a single device."""
    tx = adamw(
        0.01, ema_decay=0.9, accumulate_steps=2, nu_dtype=optadamw.blockwise(min_size=0)
    )
    alone, _ = fitted(Optimizer(tx))
    assert len(jax.devices()) == 4
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    together, _ = fitted(Optimizer(tx))
    kernel = together.optimizer.state.mu["sequential_1/dense_2/kernel"]
    assert len(kernel.sharding.device_set) == 4
    for a, b in zip(alone.get_weights(), together.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
