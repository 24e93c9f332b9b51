"""The studies of precision run, and the code that they chose is the library's."""

import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import devices
from benchmarks.codes import candidates, stress
from benchmarks.codes.mapped import powers_without_zero
from benchmarks.codes.minifloat import minifloat
from benchmarks.codes.rank_one import RankOne
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


def test_the_study_of_windows_runs(tmp_path):
    path = tmp_path / "windows.json"
    command = [sys.executable, "-m", "benchmarks.windows", "--output", str(path)]
    command += ["--parts", "4", "--seeds", "2", "--steps", "8"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ways = json.loads(path.read_text())["parts"]["4"]
    root = {way: measured["root"]["0.003"] for way, measured in ways.items()}
    # Mean of squares over the parts: a quarter of it lies below the square of the mean.
    assert root["mean"] == 1.0
    assert root["squares"] / 2 == pytest.approx(root["adama"], rel=0.05)
    assert root["adama"] < 1.0 < root["squares"]


def test_the_times_on_several_devices_are_measured(tmp_path):
    path = tmp_path / "devices.json"
    command = [sys.executable, "-m", "benchmarks.devices", "--output", str(path)]
    done = subprocess.run(
        [*command, "--quick", "--rounds", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text())["cases"]
    assert {case["config"] for case in found} == set(devices.CONFIGS)
    for case in found:
        assert case["devices"] == 2
        for figures in case["contenders"].values():
            assert all(seconds > 0 for seconds in figures["step_s"][0])


def test_the_codes_of_4_bits_are_measured_apart():
    mu, nu = candidates.of_bits(4)
    assert {code.element_bits for code in (*mu.values(), *nu.values())} == {4}
    pairs = candidates.pairs_of_bits(4)
    assert "4 bits, torchao" in pairs and "MX, both stochastic" not in pairs
    found = stress.of(pairs["nu 4 bits, linear"])
    assert found["zeros"]["peak"] == 0.0 and found["rare_columns"]["finite"]


@pytest.mark.parametrize("moment", ["mu", "nu"])
def test_the_codes_of_4_bits_are_torchaos(moment):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    peer = pytest.importorskip("torchao.optim", reason="torchao is not installed")
    from torchao.optim import quant_utils, subclass_4bit

    del peer
    values = np.random.default_rng(1).normal(size=(16, 256)).astype(np.float32)
    values = values if moment == "mu" else values**2
    signed, unsigned = (
        subclass_4bit.get_qmap_signed(),
        subclass_4bit.get_qmap_unsigned(),
    )
    table = torch.tensor(signed if moment == "mu" else unsigned)
    scaled, scale = quant_utils.scale_tensor(torch.tensor(values).flatten(), 128)
    codes = quant_utils.quantize_4bit_with_qmap(scaled, table)
    theirs = quant_utils.dequant_with_qmap(codes, table, scale).reshape(values.shape)
    label = {"mu": "dynamic4/128 nearest", "nu": "linear4 without 0/128 nearest"}
    code = {**candidates.MU, **candidates.NU}[label[moment]]
    ours = code.through(jnp.asarray(values), None)
    np.testing.assert_array_equal(ours, theirs.numpy())


def test_a_scale_for_each_row_and_column():
    """Beside the definition: the smaller one of the two maxima, in steps of 1/16."""
    rng = np.random.default_rng(0)
    values = rng.chisquare(1, (6, 9)).astype(np.float32) * 10.0 ** rng.integers(0, 5, 9)
    found = RankOne(powers_without_zero(1, 4), 4).through(jnp.asarray(values), None)
    scale = np.minimum(values.max(1, keepdims=True), values.max(0))
    steps = np.clip(np.rint(values / scale * 16), 1, 16)
    np.testing.assert_allclose(found, steps / 16 * scale, rtol=1e-6)
    assert (RankOne(powers_without_zero(1, 4), 4).through(0 * found, None) == 0).all()


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
