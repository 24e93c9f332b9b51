"""The comparison with FlashOptim: as documented, and with its package where it is."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.codes import stress
from benchmarks.flashoptim import __main__, codes, tables
from benchmarks.precision.contenders import CONTENDERS, HYPERPARAMETERS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def package():
    if not codes.is_installed():
        pytest.skip("flashoptim-jax is not installed")


def test_the_document_has_the_rows_of_the_results():
    found = json.loads((ROOT / "benchmarks/results/flashoptim.json").read_text())
    page = (ROOT / "docs/ideas/moment_codes.md").read_text()
    rows = [
        line
        for line in tables.all_of(found).splitlines()
        if line.startswith("| ") and not line.startswith(("|  |", "| ---"))
    ]
    assert len(rows) == 10 + 8 + 9 + 2
    assert [row for row in rows if row not in page] == []


def test_without_the_package_the_command_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(codes, "is_installed", lambda: False)
    output = str(tmp_path / "none.json")
    monkeypatch.setattr("sys.argv", ["flashoptim", "--output", output])
    assert __main__.main() == 1
    assert "pip install flashoptim-jax==0.1.0" in capsys.readouterr().err


def test_its_codes_are_those_of_the_package(package):
    import flashoptim_jax as theirs

    values = jnp.asarray(np.random.default_rng(0).normal(size=(8, 64)), jnp.float32)
    for code, quantize, dequantize in (
        (codes.momentum(), theirs.quantize_momentum, theirs.dequantize_momentum),
        (codes.variance(), theirs.quantize_variance, theirs.dequantize_variance),
    ):
        given = values if code.name.endswith("mu") else values**2
        np.testing.assert_array_equal(
            code.through(given, None), dequantize(quantize(given))
        )
        assert code.bits == 8.5


def test_rare_columns_explode_there_and_not_here(package):
    ours, theirs = (
        stress.of(pair)["rare_columns"] for pair in __main__._pairs().values()
    )
    assert ours["peak"] < 1.1 * ours["float32_peak"]
    assert theirs["peak"] > 1000 * theirs["float32_peak"]


@pytest.mark.parametrize("name", ["FlashOptim", "FlashOptim 24 bits"])
def test_its_optimizer_takes_part_in_the_study(package, name):
    """Its first step is that of AdamW, in 6.125 or 5.125 bytes per parameter."""
    contender = CONTENDERS[name]
    rng = np.random.default_rng(1)
    params = {"w": jnp.asarray(rng.normal(size=(64, 64)), contender.kept)}
    grads = {"w": jnp.asarray(rng.normal(size=(64, 64)), contender.kept)}
    rate = optax.constant_schedule(1e-3)
    session = contender.prepare(rate, HYPERPARAMETERS, 0)(params)
    plain = CONTENDERS["full"].prepare(rate, HYPERPARAMETERS, 0)(
        jax.tree.map(lambda x: x.astype(jnp.float32), params)
    )
    session.step(grads)
    plain.step(jax.tree.map(lambda x: x.astype(jnp.float32), grads))
    found = session.parameters()["w"].astype(jnp.float32)
    assert session.parameters()["w"].dtype == contender.kept
    tolerance = 2.0**-8 if "bits" in name else 2.0**-20
    np.testing.assert_allclose(found, plain.parameters()["w"], tolerance, 1e-7)
    count = 64 * 64
    bytes_each = session.kept_bytes() / count
    assert bytes_each == pytest.approx(5.125 if "bits" in name else 6.125, abs=0.01)
    nu = session.second_moment()
    np.testing.assert_allclose(nu**0.5, plain.second_moment() ** 0.5, 0.01, 3e-4)
