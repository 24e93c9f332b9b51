"""The examples run as written and learn the digits."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

pytest.importorskip("sklearn")

EXAMPLES = Path(__file__).parents[2] / "examples"
TRAININGS = {
    "bare_jax": "jax",
    "flax_linen_train_state": "flax",
    "flax_nnx_optimizer": "flax",
    "equinox_model": "equinox",
}


@pytest.fixture(autouse=True)
def as_users_run_them(monkeypatch):
    """Import from the folder, as a script does, under JAX's default promotion."""
    monkeypatch.syspath_prepend(EXAMPLES)
    before = set(sys.modules)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
    for path in EXAMPLES.glob("*.py"):
        if path.stem not in before:
            sys.modules.pop(path.stem, None)


@pytest.mark.parametrize(("name", "requires"), TRAININGS.items())
def test_example_learns(name, requires, capsys):
    pytest.importorskip(requires)
    accuracy = importlib.import_module(name).main()
    assert accuracy >= 0.95
    assert capsys.readouterr().out == f"test accuracy {accuracy:.2%}\n"


def test_sweep_is_traced_once_and_learns():
    sweep = importlib.import_module("vmap_sweep").main()
    assert sweep.traces == 1
    assert sweep.accuracies.shape == (4, 4)
    assert sweep.accuracies.max() >= 0.96
    # The hyperparameters took effect: no two learning rates end alike.
    assert len(set(sweep.accuracies[:, 0].tolist())) == 4


def test_eight_devices_learn_with_a_divided_state():
    """In a process of its own: the number of devices is fixed when JAX starts."""
    done = subprocess.run(
        [sys.executable, "sharded.py"],
        cwd=EXAMPLES,
        env=os.environ | {"PYTHONPATH": str(EXAMPLES.parent), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    *plan, last = done.stdout.splitlines()
    rows = {line.split()[0]: line.split()[-2:] for line in plan if line}
    assert float(rows["mu"][0]) == pytest.approx(float(rows["parameters"][0]) / 4, 0.01)
    assert float(re.match(r"test accuracy ([\d.]+)%$", last)[1]) >= 95


def test_a_killed_training_ends_in_the_same_bits(capfd):
    pytest.importorskip("flax")
    interrupted = importlib.import_module("interrupted")
    assert interrupted.main(["--steps", "60", "--kills", "2", "--clean", "2"]) == 0
    printed = capfd.readouterr().out
    assert "killed 2 times" in printed
    assert "the same bits:        yes" in printed


def test_every_example_is_tested():
    scripts = {path.stem for path in EXAMPLES.glob("*.py")}
    others = {"vmap_sweep", "digits", "interrupted", "sharded"}
    assert scripts == set(TRAININGS) | others
