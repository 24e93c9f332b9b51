"""An option of `optadamw convert` changes the result, or is refused."""

import dataclasses

import numpy as np
import pytest

from optadamw.cli.convert.table import on_schedule, table
from optadamw.dialects.conversion import FORMS, write_state
from optadamw.dialects.files import files
from optadamw.dialects.files.checkpoints import Bare
from optadamw.dialects.states.form import Plan
from optadamw.dialects.used_options import check_used
from tests.interchange import cases
from tests.interchange.files import NAMES, convert, prepared, trained

NUMBERS = {
    "learning_rate": (0.5, 0.25),
    "b1": (0.5, 0.75),
    "b2": (0.5, 0.75),
    "eps": (0.5, 0.25),
    "weight_decay": (0.5, 0.25),
}


@pytest.fixture(scope="module")
def state_and_params():
    _, params, state = trained()
    return state, {path: np.asarray(p) for path, p in params.items()}


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("target", FORMS)
def test_a_number_is_written_or_refused(target, number, state_and_params, tmp_path):
    state, params = state_and_params
    base = {"learning_rate": 0.125, "b1": 0.125, "b2": 0.125, "to_names": NAMES}
    contents = []
    for value in NUMBERS[number]:
        plan = Plan("optadamw", target, **{**base, number: value})
        out = tmp_path / f"{value}.npz"
        write_state(plan, Bare(state, None, False, None, "steps"), out, params)
        contents.append(out.read_bytes())
    plan = Plan("optadamw", target, **{number: value})
    if contents[0] == contents[1]:
        with pytest.raises(ValueError, match="would change nothing"):
            check_used(plan)
    else:
        check_used(plan)


@pytest.mark.parametrize("target", FORMS)
def test_a_number_that_nobody_states_is_reported_or_asked_for(
    target, state_and_params, tmp_path
):
    state, params = state_and_params
    bare = Bare(state, None, False, None, "steps")
    for number in NUMBERS:
        rest = {name: 0.125 for name in NUMBERS if name != number}
        plan = Plan("optadamw", target, **rest, to_names=NAMES)
        told = ""
        try:
            write_state(plan, bare, tmp_path / "out.npz", params)
            told = table(plan, tmp_path, bare, None, None, on_schedule(plan, plan))
        except ValueError as error:
            told = str(error)
        form = FORMS[target]
        is_held = form.is_state_dict or number in form.written_with
        assert (f"--{number.replace('_', '-')}" in told) == is_held


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            Plan("mlx", "optadamw", b1=0.5),
            "`--b1` would change nothing: mlx (FROM) and optadamw (TO) do not use it. "
            "Leave it out.",
        ),
        (
            Plan("torch", "keras", use_ema=True),
            "`--use-ema` would change nothing: torch (FROM) does not use it. "
            "Leave it out.",
        ),
        (Plan("optadamw", "torch", missing="zeros"), "`--missing` would change nothin"),
        (Plan("optadamw", "torch", names=NAMES), "`--names` would change nothing"),
        (Plan("torch", "optadamw", to_names=NAMES), "`--to-names` would change noth"),
        (Plan("torch", "mlx", amsgrad="raw"), "`--amsgrad` would change nothing"),
        (
            Plan("keras", "mlx", amsgrad="corrected"),
            "`--amsgrad` is corrected, and keras keeps the maximum of the raw second "
            "moments: --amsgrad raw.",
        ),
        (Plan("optax", "mlx", amsgrad="raw"), "maximum of the corrected second mome"),
    ],
)
def test_an_unused_option_is_refused(given, message):
    with pytest.raises(ValueError) as error:
        check_used(given)
    assert message in str(error.value)


def test_options_of_one_side_are_accepted():
    check_used(Plan("flux", "optadamw", b1=0.5, b2=0.5, names=NAMES))
    check_used(Plan("keras", "optadamw", amsgrad="raw", use_ema=True, accumulate=2))
    numbers = {name: values[0] for name, values in NUMBERS.items()}
    check_used(Plan("optadamw", "timm", to_names=NAMES, **numbers))
    optional = {field.name for field in dataclasses.fields(Plan)} - {"source", "target"}
    assert set(NUMBERS) < optional


def test_what_the_report_says_of_betas_and_of_a_rate(tmp_path, capsys):
    tx, params, state = prepared(tmp_path)
    files.write(tmp_path / "in.npz", FORMS["mlx"].writes(state, params, tx=tx))
    files.write(tmp_path / "flux.npz", FORMS["flux"].writes(state, params, tx=tx))
    shared = ("--params", tmp_path / "params.safetensors", "--force")
    shared += ("--out", tmp_path / "x.npz")
    words = ("mlx", tmp_path / "in.npz", "--to", "flux", *shared)
    assert convert(*words, "--b1", 0.5) == 0
    output = capsys.readouterr().out
    assert "not known from FROM, so as by default: --b2 0.999\n" in output
    words = ("flux", tmp_path / "flux.npz", "--to", "keras", *shared)
    words += ("--b1", cases.B1, "--b2", cases.B2)
    words += ("--to-names", tmp_path / "names.json")
    assert convert(*words) == 0, capsys.readouterr().err
    assert "note: the file holds no learning rate, as Keras" in capsys.readouterr().out
    assert convert(*words, "--learning-rate", 0.5) == 0
    assert "learning rate" not in capsys.readouterr().out
    words = ("mlx", tmp_path / "in.npz", "--to", "keras", *shared)
    words += ("--to-names", tmp_path / "names.json")
    assert convert(*words) == 0
    text = f"note: the file holds the learning rate {cases.RATE:g} of FROM. An "
    assert text in capsys.readouterr().out
    with_rate = files.read(tmp_path / "x.npz")
    assert convert(*words, "--learning-rate", "schedule") == 0
    assert "learning rate" not in capsys.readouterr().out
    assert len(files.read(tmp_path / "x.npz")) == len(with_rate) - 1
    for target in ("torch", "mlx", "flux", "optadamw"):
        words = ("flux", tmp_path / "flux.npz", "--to", target, *shared)
        assert convert(*words, "--learning-rate", "schedule") == 2
        assert "`--learning-rate" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        convert(*words, "--learning-rate", "fast")
    assert "must be a number, or 'schedule' for Ker" in capsys.readouterr().err


def test_the_command_refuses_them(tmp_path, capsys):
    tx, params, state = prepared(tmp_path)
    files.write(tmp_path / "in.npz", FORMS["mlx"].writes(state, params, tx=tx))
    words = ("mlx", tmp_path / "in.npz", "--to", "optadamw")
    words += ("--params", tmp_path / "params.safetensors", "--out", tmp_path / "x.npz")
    assert convert(*words, "--weight-decay", "nan") == 2
    assert "`--weight-decay` would change nothing" in capsys.readouterr().err
    assert convert(*words, "--accumulate", "3") == 1
    error = capsys.readouterr().err
    assert "`--accumulate` would change nothing: the state of mlx (FROM)" in error
    assert not (tmp_path / "x.npz").exists()
    assert convert(*words) == 0
