"""Every call has the arguments, the order and the defaults of its peer.

They are written down in `tests.dialects.documented`, a table of our own and not that of
the records. `test_recorded.py` and `test_live.py` compare with the real packages.
"""

import inspect
import re

import pytest

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
def test_a_record_describes_every_argument(name):
    for function in CALLS[name].found():
        parameters = inspect.signature(function).parameters
        text = inspect.getdoc(function)
        for parameter in parameters:
            assert re.search(rf"^  \**{parameter}: ", text, re.M), parameter
        recorded = CALLS[name].functions[function.__name__]
        known = [
            p.name
            for p in parameters.values()
            if p.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        if recorded:
            assert sorted(known) == sorted(set(recorded) - {"kwargs"})
            for argument in known:
                assert recorded[argument].text in " ".join(text.split())


@pytest.mark.parametrize("name", CALLS)
def test_a_record_marks_the_arguments_that_the_peer_does_not_have(name):
    main = f"{name}.{CALLS[name].name}"
    arguments = CALLS[name].arguments
    ours = {argument for argument in arguments if arguments[argument].is_ours}
    assert ours == OURS.get(main, set())


@pytest.mark.parametrize("name", CALLS)
def test_an_option_is_set_by_one_argument(name):
    """Else an error could not say which of them it is about."""
    for arguments in CALLS[name].functions.values():
        options = [o for argument in arguments.values() for o in argument.options]
        assert len(options) == len(set(options))


def test_the_calls_are_the_peers_of_the_issue():
    assert list(CALLS) == list(MODULES)
    for name, call in CALLS.items():
        assert call.found()[0] is function_of(f"{name}.{call.name}")
