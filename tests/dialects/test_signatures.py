"""Every call has the arguments, the order and the defaults of its peer.

They are written down in `tests.dialects.documented`, a table of our own and not that of
the records. `test_recorded.py` and `test_live.py` compare with the real packages.
"""

import inspect
import re

import pytest

from optadamw.dialects.calls import docstring
from optadamw.dialects.catalogue import CALLS
from tests.dialects.documented import (
    ALIASES,
    MODULES,
    OURS,
    PEERS,
    documented,
    function_of,
)


@pytest.mark.parametrize("spelling", PEERS)
def test_a_call_has_the_arguments_order_and_defaults_of_its_peer(spelling):
    peer = documented(PEERS[spelling])
    here = dict(inspect.signature(function_of(spelling)).parameters)
    ours = OURS.get(spelling, set()) | ALIASES.get(spelling, set())
    assert ours <= set(here)
    for name in ours:
        assert here[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert here.pop(name).default in (None, False)
    here = [p for p in here.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    assert [p.name for p in here] == list(peer)
    for parameter in here:
        assert parameter.default == peer[parameter.name].default, parameter
        assert type(parameter.default) is type(peer[parameter.name].default)
        assert parameter.kind == peer[parameter.name].kind


@pytest.mark.parametrize("name", CALLS)
def test_a_docstring_describes_every_argument(name):
    call = CALLS[name]
    for function in (call.function, *call.others):
        text = inspect.getdoc(function)
        for parameter in inspect.signature(function).parameters:
            assert re.search(rf"^  \**{parameter}: ", text, re.M), parameter
        assert list(docstring.arguments(function)) == [
            p.name for p in inspect.signature(function).parameters.values()
        ]
        for section in ("Returns", "Raises", "Example"):
            assert text.count(f"\n{section}:\n") == 1


@pytest.mark.parametrize("name", CALLS)
def test_a_record_lists_the_arguments_that_the_peer_does_not_have(name):
    call = CALLS[name]
    assert set(call.ours) == OURS.get(f"{name}.{call.name}", set())


@pytest.mark.parametrize("name", CALLS)
def test_an_option_is_set_by_one_argument(name):
    """Else an error could not say which of them it is about."""
    call = CALLS[name]
    for function in (call.function, *call.others):
        texts = docstring.arguments(function).values()
        options = [option for text in texts for option in docstring.options(text)]
        assert len(options) == len(set(options))


def test_the_options_of_a_description_are_read():
    assert docstring.options("The rate. Sets `learning_rate`.") == ["learning_rate"]
    assert docstring.options('Two. Sets `b1`, `b2`, `eps_mode="hat"`.') == ["b1", "b2"]
    assert docstring.options("First. Sets `DynamicLossScale.initial`.") == ["initial"]
    assert docstring.options("Sets `b1` to 0 if it is None.") == []


def test_a_docstring_is_completed_from_another_function():
    def there(b1, b2):
        """One.

        Args:
          b1: The first. Sets `b1`.
          b2: The second. Sets `b2`.
        """

    def here(b2, b1, scale, **kwargs):
        """Two.

        Args:
          b2: Another.
          scale: Its own.

        Example:
          >>> here(1, 2, 3)
        """

    text, described = docstring.completed(here, docstring.arguments(there))
    assert list(described) == ["b2", "b1", "scale", "kwargs"]
    assert described["b1"] == "The first. Sets `b1`."
    assert described["b2"] == "Another."
    titles = re.findall(r"^(\w+):$", text, re.M)
    assert titles == ["Args", "Returns", "Raises", "Example"]
    with pytest.raises(KeyError, match="b1"):
        docstring.completed(here, {})


def test_the_calls_are_the_peers_of_the_issue():
    assert list(CALLS) == list(MODULES)
    for name, call in CALLS.items():
        assert call.function is function_of(f"{name}.{call.name}")
