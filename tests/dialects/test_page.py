"""The page and the command print the records of the calls."""

from pathlib import Path

import pytest

import optadamw.cli.main as cli
from optadamw.dialects.calls import docstring
from optadamw.dialects.catalogue import CALLS

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "dialects.md"


def test_the_page_is_what_the_command_prints(capsys):
    assert cli.main(["dialects", "--markdown"]) == 0
    assert capsys.readouterr().out == PAGE.read_text()


def test_the_command_prints_every_peer(capsys):
    assert cli.main(["dialects"]) == 0
    out = capsys.readouterr().out
    for call in CALLS.values():
        assert f"{call.peer} ({call.studied})" in out
        assert call.formula in out


@pytest.mark.parametrize("name", CALLS)
def test_the_command_prints_one_peer(name, capsys):
    assert cli.main(["dialects", name]) == 0
    out = capsys.readouterr().out
    call = CALLS[name]
    assert out.startswith(f"{call.peer} (")
    lines = {line.split()[0]: line for line in out.splitlines() if line.split()}
    for argument in {*docstring.arguments(call.function)} - {"kwargs"}:
        assert argument in lines
    others = [d for d in CALLS.values() if d.peer not in call.peer]
    assert not any(f"{d.peer} (" in out for d in others)


def test_the_command_takes_the_names_of_convert(capsys):
    for name in ("tensorflow-addons", "r-keras3"):
        assert cli.main(["dialects", name]) == 0
        printed = capsys.readouterr().out
        assert cli.main(["dialects", name.replace("-", "_")]) == 0
        assert printed == capsys.readouterr().out


@pytest.mark.parametrize("name", ["pytorch", "Keras", "", "moon"])
def test_the_command_refuses_an_unknown_name(name, capsys):
    assert cli.main(["dialects", name]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"got {name!r}. Near it: '" in printed.err
    assert printed.err.count("\n") == 1


def test_the_command_names_the_peer_that_was_meant(capsys):
    cli.main(["dialects", "pytorch"])
    assert "Near it: 'torch'" in capsys.readouterr().err
