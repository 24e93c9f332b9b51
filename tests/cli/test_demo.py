"""The demo: accuracy, determinism, honest reports, its files and its progress."""

import contextlib
import dataclasses
import io
import json
import re
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("flax")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from flax import nnx

from optadamw import State, plotting
from optadamw.cli.demo import digits, evaluation, optimizers, report, summary
from optadamw.cli.demo.model import initial_network, patches
from optadamw.cli.demo.progress import Progress
from optadamw.cli.demo.settings import Settings
from optadamw.cli.demo.task import Splits
from optadamw.cli.demo.training import Epoch
from optadamw.cli.main import main

SHORT = (
    "--only training --epochs 2 --seed 3 --clip-global-norm 0.5 --ema-decay 0.5 "
    "--no-plots --quiet"
).split()
EPOCH = Epoch(7, 0.1234, 0.95, 0.2345, 0.9633, 1.234, 2.1e-3, {"hidden": 1e-3}, 1.5)


@pytest.fixture(autouse=True)
def default_promotion():
    """Run under JAX's defaults, as users do; Flax and Optax need no less."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def run(folder, *arguments):
    """Run the demo; return its exit status and its summary."""
    status = main(["demo", "--output", str(folder), *arguments])
    return status, json.loads((folder / "summary.json").read_text())


def without_times(value):
    """Leave out what may differ between equal runs: seconds, and where they went."""
    if isinstance(value, dict):
        return {
            key: without_times(entry)
            for key, entry in value.items()
            if key not in ("seconds", "output")
        }
    return (
        [without_times(entry) for entry in value] if isinstance(value, list) else value
    )


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A short run: its folder, its summary and what it printed."""
    folder = tmp_path_factory.mktemp("short")
    out = io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        status, contents = run(folder, *SHORT)
    assert status == 0
    return folder, contents, out.getvalue()


def test_defaults_reach_97_percent_and_write_everything(tmp_path, capsys):
    status, contents = run(tmp_path / "a" / "b", "--only", "training")
    assert status == 0
    assert contents["final"]["adamw"]["test"]["accuracy"] >= 0.97
    assert contents["final"]["adam_l2"]["test"]["accuracy"] >= 0.97
    for name in ("adamw", "adam_l2"):
        history = contents["runs"][name]["history"]
        assert [epoch["epoch"] for epoch in history] == list(range(1, 41))
        assert history[-1]["validation_loss"] < 0.1 < history[0]["validation_loss"]
        assert set(history[0]["update_to_weight"]) == {
            "convolution1",
            "convolution2",
            "hidden",
            "output",
        }
    assert contents["seconds"] < 120
    assert set(contents["versions"]) > {"python", "optadamw", "jax", "flax", "optax"}
    for name in ("curves.png", "update_to_weight.png"):
        assert (tmp_path / "a" / "b" / name).read_bytes().startswith(b"\x89PNG")

    out = capsys.readouterr().out
    assert "epochs/s" not in out  # no bar where there is no terminal
    assert "Test images read right: AdamW" in out
    for name in ("curves.png", "update_to_weight.png", "report.html", "summary.json"):
        assert str(tmp_path / "a" / "b" / name) in out


def test_same_seed_gives_the_same_bits_in_another_process(short):
    folder, here, _ = short
    there = folder / "there"
    subprocess.run(
        [sys.executable, "-m", "optadamw", "demo", "--output", there, *SHORT],
        check=True,
    )
    elsewhere = json.loads((there / "summary.json").read_text())
    assert without_times(here) == without_times(elsewhere)


def test_another_seed_starts_elsewhere():
    digests = {summary.digest(initial_network(seed)[1]) for seed in (0, 1, 2**32 - 1)}
    assert len(digests) == 3


def test_quiet_prints_the_result_alone(short):
    folder, _, out = short
    assert "epoch" not in out
    assert out.splitlines()[-1] == f"Written: {folder / 'summary.json'}"
    assert not list(folder.glob("*.png"))


def test_every_setting_is_an_argument_and_in_the_summary(short):
    _, contents, _ = short
    fields = {field.name for field in dataclasses.fields(Settings)}
    assert set(contents["arguments"]) == fields
    assert contents["arguments"]["seed"] == 3
    assert contents["arguments"]["clip_global_norm"] == 0.5


def test_average_is_scored_beside_the_last_parameters(short):
    _, contents, out = short
    averaged, last = (
        contents["final"][name]["test"]["loss"] for name in ("adamw_averaged", "adamw")
    )
    assert "AdamW, averaged" in out
    assert averaged != last
    assert averaged == pytest.approx(last, rel=0.1)


def test_a_loss_that_is_not_finite_is_told_and_fails(tmp_path, capsys):
    status, contents = run(
        tmp_path, "--only", "training", "--epochs", "2", "--learning-rate", "1e30"
    )
    written = capsys.readouterr()
    assert status == 1
    assert written.err.splitlines()[0] == (
        "AdamW: the loss was not finite at step 1 (epoch 1 of 2); its training stopped "
        "there. Lower --learning-rate (now 1e+30) or set --clip-global-norm (now off)."
    )
    assert "is ahead" not in written.out
    assert contents["runs"]["adamw"]["failed_step"] == 1
    assert len(contents["runs"]["adamw"]["history"]) == 1
    assert contents["final"]["adamw"]["test"]["loss"] is None
    assert (tmp_path / "curves.png").exists()


def test_splits_are_disjoint_stratified_and_the_same_each_time():
    splits = digits.load()
    assert [len(part.labels) for part in splits] == [1197, 300, 300]
    whole = np.concatenate([np.asarray(part.inputs).reshape(-1, 64) for part in splits])
    assert len(np.unique(whole, axis=0)) == 1797
    for part in splits:
        shares = np.bincount(part.labels, minlength=10) / len(part.labels)
        assert shares == pytest.approx(0.1, abs=0.007)
    again = digits.load()
    assert all(
        (one.labels == two.labels).all() for one, two in zip(splits, again, strict=True)
    )


def test_shift_moves_by_at_most_one_pixel_and_drops_what_leaves():
    image = jnp.arange(1.0, 65.0).reshape(1, 8, 8, 1)
    padded = np.pad(image[0, ..., 0], 1)
    expected = {
        padded[row : row + 8, column : column + 8].tobytes()
        for row in range(3)
        for column in range(3)
    }
    shifted = digits.shift(jnp.repeat(image, 500, axis=0), jax.random.key(0))
    assert {np.asarray(one[..., 0]).tobytes() for one in shifted} == expected


def test_dense_layer_on_patches_is_a_convolution():
    layer = nnx.Conv(3, 5, (3, 3), rngs=nnx.Rngs(1))
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    dense = patches(images) @ layer.kernel[...].reshape(27, 5) + layer.bias[...]
    np.testing.assert_allclose(dense, layer(images), atol=1e-5)


@pytest.mark.parametrize("make", [optimizers.adamw, optimizers.adam_l2])
def test_only_kernels_are_decayed(make):
    _, params = initial_network(0)
    params = jax.tree.map(jnp.ones_like, params)
    tx = make(Settings(learning_rate=1.0, weight_decay=0.5, l2=0.5))
    grads = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(grads, tx.init(params), params)
    for layer in updates.values():
        assert (layer["kernel"] < 0).all()
        assert (layer["bias"] == 0).all()


@pytest.mark.parametrize("make", [optimizers.adamw, optimizers.adam_l2])
def test_clip_limits_the_gradient_before_the_moments(make):
    _, params = initial_network(0)
    grads = jax.tree.map(jnp.ones_like, params)
    free, clipped = (
        _first_moment(make(settings), grads, params)
        for settings in (
            Settings(weight_decay=0.0, l2=0.0),
            Settings(weight_decay=0.0, l2=0.0, clip_global_norm=0.5),
        )
    )
    norm = optax.tree.norm(grads)
    expected = jax.tree.map(lambda leaf: leaf * 0.5 / norm, free)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), clipped, expected)


def _first_moment(tx, grads, params):
    _, state = tx.update(grads, tx.init(params), params)
    records = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, State))
    return next(node.mu for node in records if isinstance(node, State) and node.mu)


def test_schedule_warms_up_and_ends_near_zero():
    settings = Settings(epochs=10, learning_rate=2.0, batch_size=64)
    rates = [float(optimizers.schedule(settings)(step)) for step in range(180)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[18] == 2.0
    assert rates[:19] == sorted(rates[:19])
    assert rates[18:] == sorted(rates[18:], reverse=True)
    assert rates[-1] < 1e-3


def test_schedule_of_a_single_step_is_legal():
    settings = Settings(epochs=1, batch_size=1197)
    assert np.isfinite(float(optimizers.schedule(settings)(0)))


@pytest.mark.parametrize(
    ("first", "second", "p_value"),
    [
        ((1, 1, 1, 0), (1, 1, 1, 0), 1.0),
        ((1, 1, 1, 1, 1, 1, 0), (0, 0, 0, 0, 0, 0, 0), 2 / 2**6),
        ((1, 1, 1, 1, 0), (0, 0, 0, 0, 1), 2 * (1 + 5) / 2**5),
    ],
)
def test_sign_test(first, second, p_value, monkeypatch):
    answers = {"first": np.array(first, bool), "second": np.array(second, bool)}
    monkeypatch.setattr(
        evaluation, "evaluate", lambda params, *_: (0.0, answers[params])
    )
    comparison = evaluation.compare(None, "first", "second", Splits(*"abc"))
    assert comparison["right"] == (sum(first), sum(second))
    assert comparison["p_value"] == pytest.approx(p_value)


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [
        (
            {"right": (290, 290), "only_right": (4, 4), "p_value": 1.0},
            "Test images read right: A 290, B 290 of 300. Neither is ahead.",
        ),
        (
            {"right": (290, 292), "only_right": (1, 3), "p_value": 0.625},
            "Test images read right: A 290, B 292 of 300.\n"
            "B is ahead by 2, as chance could explain "
            "(1 right by A alone, 3 by B alone: sign test p = 0.62).",
        ),
        (
            {"right": (299, 289), "only_right": (10, 0), "p_value": 2 / 2**10},
            "Test images read right: A 299, B 289 of 300.\n"
            "A is ahead by 10, more than chance explains "
            "(10 right by A alone, 0 by B alone: sign test p = 0.002).",
        ),
    ],
)
def test_verdict_names_whichever_is_ahead(comparison, expected):
    assert report.verdict(comparison, "A", "B", 300, "images") == expected


def test_summary_has_no_nan():
    contents = summary.whole(Settings(), runs=[float("nan"), (float("inf"), 1.5)])
    assert contents["runs"] == [None, [None, 1.5]]
    json.dumps(contents, allow_nan=False)


def test_digest_sees_every_bit():
    params = {"a": jnp.zeros(3), "b": jnp.ones(2)}
    assert summary.digest(params) == summary.digest(jax.tree.map(jnp.copy, params))
    assert summary.digest(params) != summary.digest({**params, "a": -params["a"]})
    assert summary.digest(params) != summary.digest(
        {"a": params["a"], "c": params["b"]}
    )


@pytest.mark.parametrize("missing", [float("nan"), float("inf"), None])
def test_plots_stand_values_that_are_not_finite(missing, tmp_path):
    failed = EPOCH._replace(
        training_loss=missing,
        validation_loss=missing,
        gradient_norm=missing,
        update_to_weight={"hidden": missing},
    )
    healthy = [EPOCH._replace(epoch=number + 1)._asdict() for number in range(3)]
    only_failed = {"A": [failed._asdict()], "B": [failed._asdict()]}
    for histories in ({"A": healthy, "B": [failed._asdict()]}, only_failed):
        for draw in (plotting.curves, plotting.update_to_weight):
            path = draw(histories, tmp_path / "plot.png")
            assert path.read_bytes().startswith(b"\x89PNG")


class Terminal(io.StringIO):
    """A text stream that takes itself for a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


def bar(stream, monkeypatch, **environment):
    """Show two of twenty epochs on a stream of 120 columns; return what is written."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"COLUMNS": "120", "TERM": "xterm", **environment}.items():
        monkeypatch.setenv(name, value)
    with Progress(stream).task("Training", 20, "epochs") as advance:
        advance("first")
        advance(report.short("AdamW", EPOCH))
    return stream.getvalue()


def test_a_terminal_shows_count_rate_and_time_left(monkeypatch):
    written = bar(Terminal(), monkeypatch)
    assert "Training" in written and "2/20" in written and "epochs/s" in written
    assert re.search(r"\d:\d\d:\d\d", written)  # the time left
    assert "AdamW: loss 0.1234  val acc 96.3%" in written
    assert "\u2501" in written and "\x1b[" in written


def test_a_terminal_without_color_gets_none(monkeypatch):
    written = bar(Terminal(), monkeypatch, NO_COLOR="1")
    assert "2/20" in written
    assert not re.search(r"\x1b\[[0-9;]*3[0-9][;m]", written)


def test_bar_is_ascii_where_the_terminal_is(monkeypatch):
    stream = Terminal()
    stream.encoding = "ascii"
    written = bar(stream, monkeypatch)
    assert "---" in written and written.isascii()


def test_nothing_is_written_elsewhere(monkeypatch):
    assert bar(io.StringIO(), monkeypatch) == ""
