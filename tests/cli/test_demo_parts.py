"""The parts of the demo beside its training: what they find, and what they claim."""

import contextlib
import importlib
import io
import json
import re
import sys

import jax
import numpy as np
import pytest

pytest.importorskip("flax")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from optadamw.cli.demo import (
    command,
    faults,
    figures,
    grid,
    heatmap,
    page,
    precision,
    text,
)
from optadamw.cli.demo.chapter import Chapter
from optadamw.cli.demo.grid import Grid
from optadamw.cli.demo.heatmap import Measures
from optadamw.cli.demo.settings import PARTS, Settings
from optadamw.cli.main import main


@pytest.fixture(autouse=True)
def default_promotion():
    """Run under JAX's defaults, as users do; Flax and Optax need no less."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def run(folder, *arguments):
    status = main(["demo", "--output", str(folder), *arguments])
    return status, json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A quick run of all parts: its folder, its summary and what it printed."""
    folder = tmp_path_factory.mktemp("quick")
    out = io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        status, contents = run(folder, "--quick")
    assert status == 0
    return folder, contents, out.getvalue()


def test_all_parts_are_in_the_summary_and_in_the_report(quick):
    folder, contents, out = quick
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert set(contents) > {"heatmap", "precision", "faults", "final", "runs"}
    for part in PARTS:
        assert f'<section id="{part}">' in report
    plots = {path.name for path in folder.glob("*.png")}
    assert plots == {
        "heatmap.png",
        "heatmap-tall.png",
        "precision.png",
        "faults.png",
        "curves.png",
        "curves-tall.png",
        "update_to_weight.png",
        "update_to_weight-tall.png",
    }
    assert report.count("data:image/png;base64,") == len(plots)
    # No network: nothing is loaded but what the file holds.
    assert not re.search(r'(?:src|href)="(?!data:|#)', report)
    assert "<script" not in report and "@import" not in report
    assert "\x1b" not in out


def test_bfloat16_stalls_in_optax_and_not_in_compact(quick):
    _, contents, out = quick
    found = contents["precision"]
    wanted = found["float32"]["validation_loss"]
    assert found["optax"]["validation_loss"] > wanted + 0.1
    assert found["compact"]["validation_loss"] == pytest.approx(wanted, abs=0.02)
    sizes = [found[name]["bytes_per_parameter"] for name in precision.LABELS]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == pytest.approx(12, abs=0.01) and sizes[2] < 4.5
    assert "is not nearer" not in out


def test_faults_are_survived_with_the_same_bits(quick):
    _, contents, out = quick
    found = contents["faults"]
    assert found["optax_lost"] is True
    assert found["skipped"] == 1
    assert np.isfinite(found["validation_loss"])
    assert found["killed_status"] == faults.KILLED_STATUS
    assert found["digest"] == found["continued_digest"]
    assert "ended in the same bits" in out


def test_a_grid_has_the_shape_it_was_asked_for(quick):
    _, contents, _ = quick
    for found in contents["heatmap"]["methods"].values():
        assert np.shape(found["errors"]) == (6, 6, 1)
        assert 0 < found["least_error"] < 0.2


def test_decoupled_decay_is_tuned_apart_from_the_rate():
    """The whole claim of the figure, on the whole grid."""
    grids = {
        method: grid.train(method, side=12, seeds=range(3), steps=400)
        for method in heatmap.LABELS
    }
    found = {method: heatmap.measures(one) for method, one in grids.items()}
    assert abs(found["adamw"].slope) <= 0.5
    assert found["adamw_lr"].correlation < -0.9
    assert found["adamw_lr"].slope < -0.7
    assert found["adam_l2"].slope < -0.7
    # The number of cells near the best is not compared: it follows the one least error
    # of the map, which a unit in the last place of the moments moves by a tenth.
    assert found["adamw"].decades > found["adam_l2"].decades


def _grid(best, rates=4, decays=4):
    """A grid whose error is 0.1 at one decay of each rate and 0.2 elsewhere."""
    errors = np.full((rates, decays, 2), 0.2)
    for rate, decay in enumerate(best):
        errors[rate, decay] = 0.1
    return Grid(np.geomspace(1e-3, 1, rates), np.geomspace(1e-2, 10, decays), errors)


@pytest.mark.parametrize(
    ("best", "correlation", "slope", "spread", "decades"),
    [
        ((1, 1, 1, 1), None, 0.0, 0.0, 3.0),
        ((3, 2, 1, 0), -1.0, -1.0, 3.0, 0.0),
        ((0, 1, 2, 3), 1.0, 1.0, 3.0, 0.0),
        ((1, 1, 2, 2), 2 / 5**0.5, 0.4, 1.0, 1.0),
    ],
)
def test_measures_of_a_map(best, correlation, slope, spread, decades):
    measured = heatmap.measures(_grid(best))
    assert measured.least_error == pytest.approx(0.1)
    assert measured.near_cells == 4
    assert measured.correlation == (
        None if correlation is None else pytest.approx(correlation)
    )
    assert measured.slope == pytest.approx(slope, abs=1e-6)
    assert measured.spread == pytest.approx(spread)
    assert measured.decades == pytest.approx(decades)


def test_the_best_decay_is_the_middle_of_a_flat_place():
    one = _grid((1, 1, 1, 1))
    one.errors[0, 1:3] = [[0.1, 0.1], [0.105, 0.105]]
    assert heatmap.best_decays(one) == pytest.approx([10**-0.5, 0.1, 0.1, 0.1])


def test_cells_of_a_logarithmic_axis_have_their_numbers_in_the_middle():
    # Whole cells at both ends: then maps of the same rates have the same axis.
    assert figures.edges(np.array([0.01, 0.1, 1.0])) == pytest.approx(
        [10**-2.5, 10**-1.5, 10**-0.5, 10**0.5]
    )


def test_rates_that_do_not_train_do_not_count():
    one = _grid((3, 1, 1, 1))
    one.errors[0] = 0.8
    assert heatmap.measures(one).spread == 0.0


@pytest.mark.parametrize(
    ("slope", "claim"),
    [
        (None, "too few rates train to tell"),
        (-0.2, "1.6 times smaller. Both can nearly be tuned apart."),
        (-0.0, "the best decay is the same for ten times the rate."),
        (-1.0, "10.0 times smaller. Whoever changes the rate must tune the decay"),
        (0.6, "4.0 times larger. Whoever changes the rate must tune the decay"),
    ],
)
def test_no_more_is_claimed_than_is_seen(slope, claim):
    measured = Measures(0.1, 9, -0.9, slope, 3.0, 0.5)
    texts = heatmap.findings({name: measured for name in heatmap.LABELS})
    assert all(claim in text for text in texts[:3])
    assert "9 with AdamW, 9 with Adam + L2" in texts[3]


def test_compact_is_not_praised_where_it_is_not_nearer():
    sizes = {"float32": 12.0, "optax": 6.0, "compact": 4.2}
    better = {"float32": 1.0, "optax": 1.5, "compact": 1.01}
    worse = {"float32": 1.0, "optax": 1.01, "compact": 0.9}
    assert "not nearer" not in precision.findings(better, sizes)[0]
    equal = {"float32": 1.0, "optax": 1.5, "compact": 1.00002}
    assert "compact at that loss to four" in precision.findings(equal, sizes)[0]
    told = precision.findings(worse, sizes)[0]
    assert "compact 0.1000 below it: here compact is not nearer" in told


def test_other_bits_are_told():
    outcome = {
        "fault_step": 5,
        "optax_lost": False,
        "skipped": 1,
        "validation_loss": 0.5,
        "killed_status": faults.KILLED_STATUS,
        "saved_epochs": 1,
        "digest": "a" * 64,
        "continued_digest": None,
    }
    first, second = faults.findings(outcome, 3)
    assert "went on with a finite loss" in first
    assert "did NOT end in the same bits" in second
    (failure,) = faults.failures(outcome, "", "why")
    assert failure.endswith("uninterrupted one. why")


def test_a_worker_that_was_not_killed_is_told_and_fails():
    outcome = {
        "fault_step": 5,
        "optax_lost": True,
        "skipped": 1,
        "validation_loss": 0.5,
        "killed_status": 0,
        "saved_epochs": 1,
        "digest": "a" * 64,
        "continued_digest": "a" * 64,
    }
    _, second = faults.findings(outcome, 3)
    assert "was NOT" in second and "was killed in epoch" not in second
    (failure,) = faults.failures(outcome | {"killed_status": 1}, "the reason", "")
    assert "ended with the status 1 instead. the reason" in failure


@pytest.mark.parametrize("epochs, saved", [(1, 0), (2, 1), (3, 1), (6, 2), (40, 13)])
def test_the_worker_dies_in_an_epoch_that_there_is(epochs, saved):
    assert faults.saved_epochs(epochs) == saved


def test_one_epoch_is_killed_before_its_checkpoint(tmp_path, capsys):
    status, contents = run(
        tmp_path,
        *"--only faults --epochs 1 --batch-size 600 --no-plots".split(),
    )
    found = contents["faults"]
    assert status == 0 and found["killed_status"] == faults.KILLED_STATUS
    assert found["digest"] == found["continued_digest"]
    assert "killed in epoch 1 of 1 and started again" in capsys.readouterr().out


def test_the_transformer_learns_the_text(tmp_path, capsys):
    status, contents = run(
        tmp_path,
        *"--only training --model transformer --epochs 1 --no-plots".split(),
    )
    assert status == 0
    assert contents["final"]["adamw"]["test"]["loss"] < 3.6  # chance: 4.85 nats
    assert "Test characters read right: AdamW" in capsys.readouterr().out


def test_windows_of_the_text_do_not_overlap():
    splits = text.load()
    assert [len(part.inputs) for part in splits] == [1197, 300, 300]
    for part in splits:
        assert (part.inputs[:, 1:] == part.labels[:, :-1]).all()
    rows = np.concatenate([np.asarray(part.inputs) for part in splits])
    assert len(np.unique(rows, axis=0)) > 1700  # the text repeats some lines


def test_the_heatmap_refuses_another_model(tmp_path, capsys):
    arguments = ["--only", "heatmap", "--model", "transformer"]
    assert main(["demo", "--output", str(tmp_path), *arguments]) == 2
    told = capsys.readouterr().err
    assert "`--model` has no effect on the heatmap" in told
    assert told.count("\n") == 1


def _part(settings, progress):
    """Stand for a part that trains and then writes a plot."""
    if settings.plots:
        raise OSError(28, "No space left on device", str(settings.output / "a.png"))
    return Chapter("A title", "A question?", ["A finding."], [], [], {"fact": 1})


def test_a_full_disk_loses_no_result(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "_RUN", {part: _part for part in PARTS})
    status, contents = run(tmp_path, "--only", "precision")
    written = capsys.readouterr()
    assert status == 1
    assert "A finding." in written.out
    assert contents["precision"] == {"fact": 1}
    assert written.err == (
        f"optadamw demo: error: {tmp_path / 'a.png'} could not be written (No space "
        "left on device). The results above are complete. Choose another folder with "
        "--output.\n"
    )


def test_a_folder_that_cannot_be_written_is_told_before_the_training(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(command, "_RUN", {})
    (tmp_path / "summary.json").mkdir()
    assert main(["demo", "--output", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "could not be written" in told and "Nothing was trained yet" in told
    assert told.count("\n") == 1


def test_a_terminal_that_lacks_letters_is_no_error(tmp_path, monkeypatch):
    part = importlib.import_module("optadamw.cli.demo.precision")
    monkeypatch.setattr(command, "_RUN", {"precision": _part, "unused": part.run})
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    folder = tmp_path / "Ä"
    arguments = ["--only", "precision", "--no-plots"]
    assert main(["demo", "--output", str(folder), *arguments]) == 0
    sys.stdout.flush()
    assert b"\\xc4" in raw.getvalue()


def test_text_in_the_report_is_escaped():
    chapter = Chapter("a < b", "x & y?", ["<i>"], [["<b>"]], [], {}, ["<u>"])
    written = page.write({"training": chapter}, {"jax": "<1>"})
    for raw in ("a < b", "<i>", "<b>", "<u>", "<1>"):
        assert raw not in written
    assert "a &lt; b" in written


def test_quick_and_epochs():
    assert Settings().epochs == 40
    for arguments, epochs in ((["--quick"], 6), (["--quick", "--epochs", "9"], 9)):
        seen = []

        def part(settings, progress, seen=seen):
            seen.append(settings.epochs)
            return Chapter("t", "q", [], [], [], {})

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(command, "_RUN", {name: part for name in PARTS})
            patch.setattr(command, "_write", lambda *_: [])
            main(["demo", "--only", "training", *arguments])
        assert seen == [epochs]
