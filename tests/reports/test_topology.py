"""Devices by name: what is refused needs no compiler, what is compiled does."""

import jax
import pytest

from optadamw.cli import main as cli
from optadamw.reports.topology import missing_compiler, topology_mesh


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("v5e", r'got \'v5e\'. v5e has 2 axes; one device is "v5e:1x1"'),
        ("v5e:4", "v5e has 2 axes"),
        ("v5e:0x4", "v5e has 2 axes"),
        ("v5e:4x4x4", "v5e has 2 axes"),
        ("v5e:999999x999999", "v5e has 2 axes"),
        ("v5e:16x32", "An axis of v5e has up to 16"),
        ("v5p:4x4", 'one device is "v5p:1x1x1"'),
        ("h100", 'one device is "h100:1x1x1"'),
        ("v5:1x1", "Known are: 'v5p', 'v5e'"),
        ("H100:1x1x1", "Known are: .*'h100'"),
        ("", "got ''"),
    ],
)
def test_an_unknown_name_is_refused_in_words(name, says):
    with pytest.raises(ValueError, match=says) as error:
        topology_mesh(name)
    assert str(error.value).startswith("`topology` must be a name such as ")


def test_a_name_is_a_string():
    with pytest.raises(TypeError, match="`topology` must be a name such as"):
        topology_mesh(4)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("v5e:1x1", "libtpu", "aot-tpu"),
        ("h100:1x1x1", "JAX's plugin for CUDA", "aot-gpu"),
    ],
)
def test_a_missing_compiler_is_named_with_its_remedy(
    monkeypatch, capsys, name, package, extra
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    told = missing_compiler(name)
    assert told.startswith(f"Compiling for {name} needs {package}, which is not")
    assert f"pip install 'optadamw[{extra}]'" in told
    with pytest.raises(ModuleNotFoundError, match="which is not installed"):
        topology_mesh(name)
    assert cli.main(["memory", "--params", "1e7", "--topology", name]) == 1
    assert capsys.readouterr().err == f"optadamw memory: error: {told}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--topology", "v5e"], "`--topology` must be a name such as"),
        (["--topology", "v5e:1x1", "--devices", "8"], "not allowed with"),
    ],
)
def test_the_command_refuses(capsys, arguments, says):
    assert cli.main(["memory", "--params", "1e7", *arguments]) == 2
    assert says in capsys.readouterr().err


COMPILED = {"v5e:1x1": "libtpu", "h100:1x1x1": "JAX's plugin for CUDA"}
COMPILED |= {"v5e:2x2": "libtpu"}


@pytest.mark.parametrize("name", COMPILED)
def test_the_command_shows_the_temporaries_of_the_backend(capsys, name):
    if missing_compiler(name):
        pytest.skip(f"{COMPILED[name]} is not installed")
    arguments = ["memory", "--params", "1e7", "--plan", "full", "--topology", name]
    before = jax.config.jax_platforms
    assert cli.main(arguments) == 0
    jax.config.update("jax_platforms", before)
    shown = capsys.readouterr().out
    assert f"temporaries as XLA takes them on {name}." in shown
    assert f" on {4 if name == 'v5e:2x2' else 1} device" in shown
