"""Arguments as users type them, and errors of one line instead of a traceback."""

import errno
import importlib
import importlib.util
import subprocess
import sys

import pytest

from optadamw.base.version import __version__
from optadamw.cli.main import COMMANDS, main
from optadamw.cli.memory.arguments import _count
from optadamw.cli.memory.shapes import decoder


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_the_version(flag, capsys):
    assert main([flag]) == 0
    assert capsys.readouterr().out == f"optadamw {__version__}\n"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7B", 7e9),
        ("7b", 7e9),
        ("1.5B", 1.5e9),
        ("125M", 125e6),
        ("500k", 5e5),
        ("1T", 1e12),
        ("1e6", 1e6),
        ("7e9", 7e9),
        ("7_000_000", 7e6),
    ],
)
def test_numbers_of_parameters(text, number):
    assert _count(text) == number


@pytest.mark.parametrize(
    "text", ["lots", "B", "", "7X", "nan", "-7B", "inf", "1e4", "9e13"]
)
def test_a_number_of_parameters_that_is_none(text, capsys):
    assert main(["memory", f"--params={text}"]) == 2
    assert capsys.readouterr().err == (
        "optadamw memory: error: `--params` must be a number from 1e5 to 1e13; got "
        f"{text!r}. Example: --params 7B.\n"
    )


@pytest.mark.parametrize("count", [1e5, 5e5, 1e6, 3e6, 9.9e6, 1e7, 125e6, 7e9])
def test_a_decoder_has_about_the_parameters_that_were_asked_for(count):
    sizes = [shape.size for shape in decoder(count, "float32").values()]
    assert 0.8 * count <= sum(sizes) <= 1.25 * count
    assert min(sizes) > 0


def test_the_memory_of_a_small_model(capsys):
    arguments = ["--params", "1e6", "--plan", "full", "--no-temporaries"]
    assert main(["memory", *arguments]) == 0
    assert "A decoder of 1,000,192 parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "near"),
    [("torhc", "torch"), ("pytorch", "torch"), ("Keras", "keras"), ("nope", "")],
)
def test_an_unknown_dialect_suggests_what_is_near(name, near, capsys):
    assert main(["dialects", name]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"got {name!r}. Near it: '{near}" in error


@pytest.mark.parametrize("name", COMMANDS)
def test_an_error_of_the_system_is_one_line(name, monkeypatch, capsys):
    class Broken:
        def run(options):
            raise PermissionError(errno.EACCES, "Permission denied", "/no/where")

    monkeypatch.setattr(importlib.util, "find_spec", lambda module: module)
    monkeypatch.setattr(importlib, "import_module", lambda module: Broken)
    needed = {
        "convert": [
            *("torch", "a.pt", "--to", "keras", "--out", "b.npz", "--params", "p.npz")
        ],
        "memory": ["--params", "7B"],
    }
    assert main([name, *needed.get(name, [])]) == 1
    assert capsys.readouterr().err == (
        f"optadamw {name}: error: '/no/where': Permission denied\n"
    )


def test_a_reader_that_stops_early_sees_no_traceback():
    program = f"{sys.executable} -m optadamw dialects | head -1"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.count("\n") == 1
