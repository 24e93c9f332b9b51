"""The command line: help, errors of one line, missing packages, exit statuses."""

import importlib
import os
import subprocess
import sys

import jax
import pytest

from optadamw.cli.main import COMMANDS, main

HEAVY = ("flax", "sklearn", "matplotlib", "rich")

BAD_ARGUMENTS = [
    (
        ["--epochs", "0"],
        "`--epochs` must be an integer in [1, 10000]; got '0'. Example: --epochs 40.",
    ),
    (
        ["--epochs", "many"],
        "`--epochs` must be an integer in [1, 10000]; got 'many'. "
        "Example: --epochs 40.",
    ),
    (
        ["--seed", "-1"],
        "`--seed` must be an integer in [0, 4294967295]; got '-1'. Example: --seed 0.",
    ),
    (
        ["--batch-size", "1198"],
        "`--batch-size` must be an integer in [1, 1197]; got '1198'. "
        "Example: --batch-size 64.",
    ),
    (
        ["--learning-rate", "0"],
        "`--learning-rate` must be a number in [1e-30, 1e30]; got '0'. "
        "Example: --learning-rate 0.003.",
    ),
    (
        ["--learning-rate", "1e39"],
        "`--learning-rate` must be a number in [1e-30, 1e30]; got '1e39'. "
        "Example: --learning-rate 0.003.",
    ),
    (
        ["--weight-decay", "nan"],
        "`--weight-decay` must be a number in [0, 1e30]; got 'nan'. "
        "Example: --weight-decay 0.1.",
    ),
    (
        ["--l2", "1e39"],
        "`--l2` must be a number in [0, 1e30]; got '1e39'. Example: --l2 0.001.",
    ),
    (
        ["--clip-global-norm", "0"],
        "`--clip-global-norm` must be a number in [1e-30, 1e30]; got '0'. "
        "Example: --clip-global-norm 1.0.",
    ),
    (
        ["--ema-decay", "1"],
        "`--ema-decay` must be a number in [0, 1); got '1'. Example: --ema-decay 0.99.",
    ),
    (
        ["--output", ""],
        "`--output` must be a folder that can be written; got '' "
        "(the name is empty). Example: --output optadamw-demo.",
    ),
    (
        ["--epochs"],
        "`--epochs` expected one argument. See `optadamw demo --help`.",
    ),
    (
        ["--epoch", "3"],
        "unknown arguments: --epoch 3. See `optadamw demo --help`.",
    ),
    (["extra"], "unknown arguments: extra. See `optadamw demo --help`."),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS)
def test_bad_argument_is_one_line_and_status_2(arguments, message, capsys):
    assert main(["demo", *arguments]) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err == f"optadamw demo: error: {message}\n"


def test_output_below_a_file_is_refused(tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    assert main(["demo", "--output", str(file / "folder")]) == 2
    assert capsys.readouterr().err == (
        "optadamw demo: error: `--output` must be a folder that can be written; "
        f"got '{file}/folder' ({file} is a file). Example: --output optadamw-demo.\n"
    )


def test_every_range_has_an_example_within_it():
    namespace = COMMANDS["demo"].arguments
    for name, (kind, interval, example, _) in namespace._NUMBERS.items():
        assert namespace._number(kind, interval, name)(example) == kind(example)


@pytest.mark.parametrize("flag", ["--only", "--model"])
def test_an_unknown_choice_lists_the_others(flag, capsys):
    assert main(["demo", flag, "maps"]) == 2
    error = capsys.readouterr().err
    # Python 3.12 lists the choices without quotation marks.
    start = f"optadamw demo: error: `{flag}` invalid choice: 'maps' (choose from "
    assert error.startswith(start)
    assert {"--only": "faults", "--model": "transformer"}[flag] in error
    assert error.count("\n") == 1


def test_unknown_command(capsys):
    assert main(["train"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("optadamw: error: `COMMAND` invalid choice: 'train'")
    assert error.count("\n") == 1


def test_without_a_command_prints_help(capsys):
    assert main([]) == 2
    written = capsys.readouterr()
    assert "usage: optadamw" in written.err
    assert written.out == ""


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["--version"]])
def test_help_and_version_end_with_0(arguments, capsys):
    assert main(arguments) == 0
    assert "optadamw" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("statement", "imports_any"),
    [
        (
            "import optadamw.cli.main as c; c.main(['--help']); c.main(['demo', '-h'])",
            False,
        ),
        # The same check on a module that does need one: so the check can fail.
        ("import importlib; importlib.import_module('optadamw.cli.demo.digits')", True),
    ],
)
def test_help_imports_nothing_heavy(statement, imports_any):
    if imports_any:
        pytest.importorskip("sklearn")
    program = (
        f"import sys; {statement}; "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    last = finished.stdout.splitlines()[-1]
    assert (last != "[]") == imports_any


@pytest.mark.parametrize("module", HEAVY)
def test_missing_package_names_the_extra(module, monkeypatch, capsys):
    command = COMMANDS["demo"]
    for required in HEAVY:
        # Present whatever is installed, so that `module` alone is missing.
        monkeypatch.setitem(sys.modules, required, importlib)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["demo"]) == 1
    assert capsys.readouterr().err == (
        f"optadamw demo: error: not installed: {command.arguments.REQUIRES[module]}. "
        "Install the packages with: pip install 'optadamw[demo]'\n"
    )


def test_keyboard_interrupt_is_status_130(monkeypatch, capsys):
    pytest.importorskip("flax")
    pytest.importorskip("sklearn")
    runner = importlib.import_module(COMMANDS["demo"].runner)

    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "\noptadamw demo: interrupted.\n"


def test_module_is_runnable():
    finished = subprocess.run(
        [sys.executable, "-m", "optadamw", "demo", "--epochs", "0"],
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 2
    assert finished.stderr.startswith("optadamw demo: error: `--epochs` must be")


def test_a_platform_without_a_device_is_named():
    finished = subprocess.run(
        [sys.executable, "-m", "optadamw", "memory", "--params", "1e6"],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "nonsense"},
    )
    assert finished.returncode == 1 and "Traceback" not in finished.stderr
    error = finished.stderr.splitlines()[-1]
    begin = "optadamw memory: error: JAX finds no device, with JAX_PLATFORMS=nonsense: "
    assert error.startswith(begin) and error.endswith("`optadamw doctor` shows more.")


def test_an_odd_switch_of_the_kernels_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv("OPTADAMW_NATIVE", "off")
    assert main(["memory", "--params", "1e5"]) == 1
    assert capsys.readouterr().err == (
        "optadamw memory: error: `OPTADAMW_NATIVE` must be 0, 1 or not set; got 'off'. "
        "0 switches all kernels off, 1 switches them on.\n"
    )


@pytest.mark.parametrize("has_device", [True, False])
def test_an_error_without_words_names_the_missing_device(
    has_device, monkeypatch, capsys
):
    def fails(*args):
        raise AssertionError  # as jax.devices() does with JAX_PLATFORMS=cuda

    runner = importlib.import_module(COMMANDS["memory"].runner)
    monkeypatch.setattr(runner, "run", fails)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    if has_device:
        with pytest.raises(AssertionError):
            main(["memory", "--params", "1e6"])
        return
    monkeypatch.setattr(jax, "devices", fails)
    assert main(["memory", "--params", "1e6"]) == 1
    assert capsys.readouterr().err == (
        "optadamw memory: error: JAX finds no device, with JAX_PLATFORMS=cuda. "
        "`optadamw doctor` shows more.\n"
    )


@pytest.mark.parametrize(
    "count, devices",
    [("7B", 3), ("7B", 6), ("7B", 24), ("7B", 1000), ("100M", 60), ("1e6", 12)],
)
def test_memory_is_divided_by_devices_that_are_no_power_of_two(count, devices, capsys):
    """Of a mesh that divides no width of the model, each device holds all of it."""
    command = ["memory", "--params", count, "--plan", "full", "--no-temporaries"]
    rows = {}
    for number in (1, devices):
        assert main([*command, "--devices", str(number)]) == 0
        out = capsys.readouterr().out
        assert "whole on every device" not in out
        (row,) = (line for line in out.splitlines() if line.startswith("full  "))
        value, unit = row.split()[-2:]
        rows[number] = float(value) * {"KiB": 1, "MiB": 2**10, "GiB": 2**20}[unit]
    # The width, and with it the number of parameters, is not quite the same.
    assert rows[1] / rows[devices] == pytest.approx(devices, rel=0.05)
