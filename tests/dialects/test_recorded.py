"""R4: every call against what the real package computed, call by call."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.peers import agreement, calls
from tests.peers.rows import ROWS

CASES = [(peer, name) for peer in calls.OPENED for name in ROWS[peer]]
DIFFERENT = agreement.BY_DESIGN
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "dialects" / "numbers.md"


@pytest.mark.parametrize(
    ("peer", "name"), [case for case in CASES if case not in DIFFERENT]
)
def test_a_row_has_the_peers_numbers(peer, name):
    found = agreement.distance(peer, name)
    worst = int(np.argmax(found.ours_to_peer - found.peer_to_float64))
    assert found.is_within, (
        f"after call {worst + 1}: {found.ours_to_peer[worst]:.1f} ulps from the peer, "
        f"which is {found.peer_to_float64[worst]:.1f} from float64; we are "
        f"{found.ours_to_float64[worst]:.1f}"
    )


@pytest.mark.parametrize(("peer", "name"), DIFFERENT)
def test_a_row_that_differs_by_design_does(peer, name):
    found = agreement.distance(peer, name)
    assert np.max(found.ours_to_peer) > 100


def test_every_peer_has_twelve_rows():
    for peer, rows in ROWS.items():
        if peer in calls.OPENED:
            assert len(rows) >= 12, peer


def test_the_page_shows_every_row():
    page = PAGE.read_text()
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", page, re.M | re.S))
    assert list(sections) == list(calls.OPENED)
    for peer, text in sections.items():
        listed = re.findall(r"^\| (\w+) \| (?:float|bfloat|complex)", text, re.M)
        assert listed == list(ROWS[peer])
    assert "RED" not in page


def test_a_wrong_row_is_noticed():
    """The comparison can fail: another row's options are not within the bound."""
    rows = ROWS["torch"]
    ours, _ = calls.run(calls.OPENED["torch"](rows["large_eps"]), rows["betas"])
    right, _ = calls.run(calls.OPENED["torch"](rows["betas"]), rows["betas"])
    assert np.max(np.abs(ours - right)) > 1e-4
