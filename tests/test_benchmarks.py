"""The benchmarks run, write what they say they write, and refuse less work."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import check, contenders, interference, ratios, targets, workloads

_ROOT = Path(__file__).parent.parent
_TREE = workloads.large(quick=True)
_EVERYTHING = dataclasses.replace(workloads.CONFIGS["clip-ema"], amsgrad=True)


def _benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_quick_run_writes_the_report(tmp_path: Path) -> None:
    path = tmp_path / "quick.json"
    run = _benchmarks(
        *("--quick", "--tree", "small", "--config", "clip-ema"),
        *("--contenders", "optadamw", "optadamw-update", "optax"),
        *("--rounds", "2", "--burst", "2", "--output", str(path)),
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "small / clip-ema" in run.stdout
    report = json.loads(path.read_text())
    assert set(report) == {
        *("schema", "started", "settings", "configs", "versions", "source"),
        *("machine", "cases"),
    }
    assert {"python", "jax", "jaxlib", "optax", "optadamw", "numpy"} <= {
        name for name, version in report["versions"].items() if version
    }
    assert {"platform", "device_kind", "cpu", "cores", "xla_flags"} <= set(
        report["machine"]
    )
    (case,) = report["cases"]
    assert case["leaves"] == 20
    assert case["parameter_bytes"] == 20 * 8 * 8 * 4
    for figures in case["contenders"].values():
        assert [len(turn) for turn in figures["step_s"]] == [2, 2]
        assert all(second > 0 for turn in figures["step_s"] for second in turn)
        assert set(figures["check"]) == {"parameters", "average"}
        assert max(figures["check"].values()) <= 1
        for phase in ("trace_s", "lower_s", "compile_s"):
            assert len(figures[phase]) == 1
        # mu, nu, the average and the parameters, and a step counter or two.
        assert 0 < figures["donated_bytes"] - 4 * case["parameter_bytes"] <= 8
        assert figures["aliased_bytes"] == figures["donated_bytes"]
    assert {verdict["verdict"] for verdict in case["verdicts"]} == {
        "not judged: quick sizes"
    }


def test_list_names_every_contender_and_whether_it_is_installed() -> None:
    run = _benchmarks("--list")
    assert run.returncode == 0, run.stderr
    for name in contenders.NAMES:
        assert f"  {name}: " in run.stdout
    assert "  optax: installed" in run.stdout


def test_a_wrong_name_is_an_error() -> None:
    run = _benchmarks("--tree", "forest")
    assert run.returncode == 2
    assert "invalid choice: 'forest'" in run.stderr


def _errors(config: workloads.Config) -> dict[str, float]:
    contender = contenders.find("optax")
    assert not isinstance(contender, str)
    session = contender.open(config, _TREE, workloads.parameters(_TREE, seed=0))
    expected = check.expect(_TREE, _EVERYTHING, seed=0)
    return check.errors(session, contender.conventions, expected)


def test_the_same_work_passes_the_check_with_room() -> None:
    assert max(_errors(_EVERYTHING).values()) < 0.5


@pytest.mark.parametrize(
    "less",
    [
        {"weight_decay": 0.0},
        {"clip_global_norm": None},
        {"amsgrad": False},
        {"ema_decay": 1.0},
        {"ema_decay": 0.9995},
        {"learning_rate": 1.01e-3},
    ],
    ids=str,
)
def test_less_or_other_work_fails_the_check(less: dict[str, float | None]) -> None:
    errors = _errors(dataclasses.replace(_EVERYTHING, **less))
    assert max(errors.values()) > 10


def test_a_ratio_compares_within_each_round() -> None:
    # The machine is three times slower in the last two of four rounds.
    ours, theirs = [[1.0, 9.0, 1.0], [1.0], [3.0], [3.0]], [[2.0], [2.0], [6.0], [6.0]]
    assert ratios.per_round(ours, theirs) == (0.5, 0.5, 0.5)


def test_rounds_that_others_disturbed_are_replaced_while_patience_lasts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # In turn: a busy second, a quiet one, a disturbed round, a quiet second, a round.
    use = iter([0.9, 0.0, 0.5, 0.0, 0.02])
    monkeypatch.setattr(interference, "_others", lambda do: (do(), next(use))[1])
    monkeypatch.setattr(interference, "_PAUSE_SECONDS", 0.01)
    rounds: list[int] = []
    disturbance = interference.undisturbed(
        play=lambda: rounds.append(len(rounds)),
        drop=lambda: rounds.append(-rounds.pop() - 1),
        rounds=1,
        patience=60.0,
    )
    assert disturbance == {"others": 0.02, "replaced_rounds": 1}
    assert rounds == [-1, 1]


def _verdict(ours: list[float], exempt: str | None = None, others: float = 0.0) -> str:
    case = {
        "tree": "large",
        "config": "adamw",
        "parameter_bytes": 100,
        "disturbance": {"stepping": {"others": others}},
        "contenders": {"optadamw": {"step_s": ours}, "optax": {"step_s": [1.0] * 4}},
    }
    (verdict,) = targets.judge(case, exempt)
    return verdict["verdict"]


def test_verdicts_follow_the_median_and_name_the_noise() -> None:
    assert _verdict([0.8, 0.9, 0.9, 0.9]) == "met"
    assert _verdict([1.2, 1.2, 1.3, 1.3]) == "MISSED"
    assert _verdict([0.7, 0.8, 0.9, 1.5]) == "met, within noise"
    assert _verdict([0.6, 1.1, 1.2, 1.3]) == "MISSED, within noise"
    assert _verdict([0.9] * 4, others=0.5) == "met, on a busy machine"
    assert _verdict([1.3] * 4, exempt="quick sizes") == "not judged: quick sizes"
