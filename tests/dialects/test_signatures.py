"""Every door has the arguments, the order and the defaults of its peer.

They are written down in `tests.dialects.documented`, a table of our own and not that of
the doors. `test_recorded.py` and `test_live.py` hold numbers against the real packages.
"""

import inspect
import re

import pytest

from optadamw.dialects.catalogue import DOORS
from tests.dialects.documented import ALIASES, MODULES, OURS, PEERS, documented, door_of


@pytest.mark.parametrize("spelling", PEERS)
def test_a_door_has_the_arguments_order_and_defaults_of_its_peer(spelling):
    peer = documented(PEERS[spelling])
    here = dict(inspect.signature(door_of(spelling)).parameters)
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


@pytest.mark.parametrize("name", DOORS)
def test_a_door_says_of_every_argument_what_it_is_here(name):
    door = DOORS[name]
    parameters = inspect.signature(door.function).parameters
    known = [
        p.name
        for p in parameters.values()
        if p.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    assert sorted(known) == sorted([*door.arguments, *door.ours])
    assert [n for n in known if n in door.arguments] == [
        n for n in known if n not in door.ours
    ]
    for function in (door.function, *door.others):
        text = inspect.getdoc(function)
        for parameter in inspect.signature(function).parameters:
            assert re.search(rf"^  \**{parameter}: ", text, re.M), parameter


def test_the_doors_are_the_peers_of_the_issue():
    assert list(DOORS) == list(MODULES)
    for name, door in DOORS.items():
        assert door.function is door_of(f"{name}.{door.function.__name__}")
