"""The arguments that all `from_` and all `to_` functions share are said once, whole."""

import inspect
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import pytest

from optadamw import interchange
from optadamw.cli.convert import arguments
from optadamw.dialects import conversion
from tests.interchange import cases

ROOT = Path(__file__).parents[2]
FUNCTIONS = sorted(name for name in vars(interchange) if re.match("(from|to)_", name))
SHARED = {
    "from": {
        "tx": None,
        "names": None,
        "layout": None,
        "missing": "error",
        "drop": (),
        "afresh": (),
    },
    "to": {"tx": None, "names": None, "layout": None, "drop": ()},
}

each_function = pytest.mark.parametrize("name", FUNCTIONS)


def test_every_peer_has_both_functions():
    peers = {name.partition("_")[2] for name in FUNCTIONS}
    assert peers == {*cases.PEERS, "timm"}
    assert len(FUNCTIONS) == 2 * len(peers)


@each_function
def test_the_signature_has_every_argument_with_its_default(name):
    parameters = inspect.signature(getattr(interchange, name)).parameters
    verb = name.partition("_")[0]
    first = {"from": ["saved", "params"], "to": ["state", "params"]}[verb]
    assert list(parameters)[: 2 + len(SHARED[verb])] == [*first, *SHARED[verb]]
    for argument, default in SHARED[verb].items():
        assert parameters[argument].default == default
        assert parameters[argument].kind is inspect.Parameter.KEYWORD_ONLY
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())


@each_function
def test_the_docstring_has_every_argument(name):
    function = getattr(interchange, name)
    doc = inspect.getdoc(function)
    entries = doc.partition("\nArgs:\n")[2].partition("\n\n")[0]
    found = re.findall(r"(?m)^  (\w+): \S", entries)
    assert found == list(inspect.signature(function).parameters)
    sections = re.findall(r"(?m)^(Args|Returns|Raises|Example):$", doc)
    assert sections == ["Args", "Returns", "Raises", "Example"]
    assert "the peer" not in doc
    assert max(map(len, doc.splitlines())) <= 84


def test_help_shows_them():
    shown = pydoc.plain(pydoc.render_doc(interchange.from_keras))
    assert "missing: Literal['error', 'zeros'] = 'error'" in shown
    assert "afresh: Buffers of `tx` that start anew" in shown


@each_function
def test_another_argument_is_refused_by_name(name):
    function = getattr(interchange, name)
    called = function.__name__  # timm's `from_` is PyTorch's
    given = {"saved": {}, "state": None, "params": {}}
    first = list(inspect.signature(function).parameters)[:2]
    if name == "from_optax":
        given["saved"] = cases.into().init({"w": cases.jnp.zeros(2)})
    match = rf"{called}\(\) got an unexpected keyword argument 'nmes'.*names"
    with pytest.raises(TypeError, match=match):
        function(*(given[argument] for argument in first), nmes=None)


def test_a_type_checker_takes_and_refuses_them():
    pytest.importorskip("mypy", reason="mypy is not installed")
    command = [sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports"]
    found = subprocess.run(
        [*command, "tests/interchange/typed_calls.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout


def test_the_command_has_the_forms_of_the_peers():
    """`--help` imports none of them, so it has their names."""
    assert (*conversion.FORMS, "optadamw") == arguments.FORMS
    for name, form in conversion.FORMS.items():
        peer = name.replace("-", "_")
        assert form.reads is getattr(interchange, f"from_{peer}")
        assert form.writes is getattr(interchange, f"to_{peer}")
