"""`optadamw doctor`: every section, errors of one section, and the fast paths."""

import json
import subprocess
import sys

import jax
import pytest

from optadamw.base.version import __version__
from optadamw.cli.doctor import sections
from optadamw.cli.main import main


def report(capsys):
    assert main(["doctor", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_report_has_versions_devices_settings_and_fast_paths(capsys):
    found = report(capsys)
    assert list(found) == list(sections.SECTIONS)
    assert found["Versions"]["optadamw"] == __version__
    assert found["Versions"]["jax"] == jax.__version__
    assert found["Devices"]["backend"] == jax.default_backend()
    assert "jax_enable_x64" in found["Settings"]
    assert len(found["Fast paths"]) >= 3


def test_the_text_has_every_line_of_the_report(capsys):
    found = report(capsys)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for title, lines in found.items():
        assert f"{title}\n" in text
        assert all(f"  {name}" in text for name in lines)


def test_each_fast_path_is_on_or_says_why_not(capsys):
    for text in report(capsys)["Fast paths"].values():
        state, _, reason = text.partition(": ")
        assert state in ("on", "off", "possible", "unknown") and reason


def test_the_step_in_place_is_found(capsys):
    paths = report(capsys)["Fast paths"]
    assert paths["in-place step (tx.jit_step)"].startswith("on")


def test_the_compilation_cache_is_found(capsys, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        found = report(capsys)["Fast paths"]["compiled programs kept on disk"]
        assert found == f"on: {tmp_path}"
        jax.config.update("jax_compilation_cache_dir", None)
        found = report(capsys)["Fast paths"]["compiled programs kept on disk"]
        assert found.startswith("off: ")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_variables_that_change_jax_are_shown(capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_max_isa=AVX2")
    monkeypatch.setenv("SECRET_TOKEN", "hidden")
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "--xla_cpu_max_isa=AVX2" in text and "hidden" not in text


def test_a_section_that_breaks_hides_no_other(capsys, monkeypatch):
    def broken():
        yield "first", "fine"
        raise RuntimeError("no\ndevice")

    more = {"Devices": broken, "Added": lambda: [("a line", "of another")]}
    monkeypatch.setattr(sections, "SECTIONS", sections.SECTIONS | more)
    monkeypatch.setattr("optadamw.cli.doctor.command.SECTIONS", sections.SECTIONS)
    assert main(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["Devices"] == {"first": "fine", "error": "RuntimeError: no device"}
    assert found["Added"] == {"a line": "of another"}
    assert found["Fast paths"]


def test_the_module_runs_it():
    command = [sys.executable, "-m", "optadamw", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert f"optadamw          {__version__}" in done.stdout


@pytest.mark.parametrize("argument", ["extra", "--loud"])
def test_an_unknown_argument_is_one_line(argument, capsys):
    assert main(["doctor", argument]) == 2
    error = capsys.readouterr().err
    assert error.startswith("optadamw doctor: error: unknown arguments")
    assert error.count("\n") == 1


def test_kernels_and_why_there_are_none(monkeypatch):
    for value, text in (
        ("", "on: native ("),
        ("1", "on: native ("),
        ("0", "off: XLA (OPTADAMW_NATIVE=0)"),
    ):
        monkeypatch.setenv("OPTADAMW_NATIVE", value)
        line = dict(sections.fast_paths())["CPU kernels (with_kernels)"]
        assert text in line or line.startswith("off: XLA (no compiler")
    monkeypatch.setenv("OPTADAMW_NATIVE", "1")
    monkeypatch.setenv("CC", "no-such-compiler")
    line = dict(sections.fast_paths())["CPU kernels (with_kernels)"]
    assert line == "off: XLA (no compiler: no-such-compiler is not on the PATH)"
