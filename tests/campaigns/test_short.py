"""Every campaign in its short form, and the command that runs them."""

import pytest

from tests.campaigns import __main__ as command
from tests.campaigns import campaign
from tests.campaigns.campaign import Case, cases, names, run


@pytest.mark.parametrize("name", names())
def test_the_short_form_holds(name):
    told: list[str] = []
    tally = run(cases(name, full=False), told.append)
    assert tally.tried > 0
    assert not tally.failed, "\n".join(told)


def test_a_case_that_fails_is_counted_and_the_next_one_is_tried(capsys, monkeypatch):
    def breaks():
        raise AssertionError("3 bits are wrong")

    tried = [Case("good", lambda: "7 ULP"), Case("bad", breaks), Case("last", str)]
    tally = run(iter(tried))
    assert str(tally) == "tried 3, held 2, failed 1"
    assert tally.failed == {"bad": "AssertionError: 3 bits are wrong"}
    assert tally.figures["good"] == "7 ULP"
    monkeypatch.setattr(command, "cases", lambda name, full: iter(tried))
    monkeypatch.setattr(command, "names", lambda: ["moon"])
    assert command.main(["moon"]) == 1
    assert "moon: tried 3, held 2, failed 1" in capsys.readouterr().out


def test_an_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["moon"])
    assert "no campaign is called moon" in capsys.readouterr().err
    assert campaign.NOT_CAMPAIGNS == ("__main__", "campaign")
