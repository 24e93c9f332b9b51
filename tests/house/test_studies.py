"""The studies of precision run, and the code that they chose is the library's."""

import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.codes.minifloat import minifloat
from optadamw.store.block_code import decoded, encoded

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("signed", [True, False], ids=["mu", "nu"])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_two_implementations_of_one_code(signed, rounding):
    """The study's code of blocks was written apart from the library's.

    They differ where the library departs from what was measured: a first moment below
    its smallest code is not raised at random.
    """
    rng = np.random.default_rng(0)
    # Second moments below the smallest code too, 5.6e-10 of the largest.
    size = 10.0 ** rng.uniform(-4.0 if signed else -14.0, 0.0, (200, 64))
    size = size * 10.0 ** rng.uniform(-25.0, 25.0, (200, 1))
    values = jnp.asarray(size * rng.choice([-1, 1], size.shape), jnp.float32)
    values = values if signed else jnp.abs(values)
    bits = jnp.asarray(rng.integers(0, 2**32, values.shape, dtype=np.uint32))
    noise = bits if rounding == "stochastic" else None
    code = minifloat(4 if signed else 5, 3, signed, 32)
    blocks = values.reshape(200, 2, 32)
    kept = code.encode(blocks, None if noise is None else noise.reshape(blocks.shape))
    theirs = code.decode(kept).reshape(values.shape)
    ours = decoded(encoded(values, 32, noise, signed=signed), signed=signed)
    np.testing.assert_array_equal(ours, theirs)


def test_the_study_of_losses_runs(tmp_path):
    path = tmp_path / "study.json"
    command = [sys.executable, "-m", "benchmarks.precision", "--output", str(path)]
    chosen = ["--contenders", "full", "compact", "--seeds", "2", "--steps", "12"]
    for arguments in (["--problems", "digits"], ["--convex"]):
        done = subprocess.run(
            [*command, *chosen, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text())
    runs = found["digits"]["contenders"]["compact"]["runs"]
    assert [run["seed"] for run in runs] == [0, 1]
    assert runs[0]["bytes_per_parameter"] < 4.3
    assert found["convex"]["contenders"]["compact"]["bias"]["error"] > 0


def test_the_study_of_variants_runs(tmp_path):
    path = tmp_path / "variants.json"
    command = [sys.executable, "-m", "benchmarks.variants", "--output", str(path)]
    command += ["--contenders", "clip_update_rms", "schedule_free", "--seeds", "2"]
    command += ["--steps", "4", "--rounds", "1", "--rows", "1024"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text())
    for name in ("clip_update_rms", "schedule_free"):
        assert len(found[name]["seeds"]) == 2
        assert found[name]["temporaries"] < 0.01
