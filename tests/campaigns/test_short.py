"""Every campaign in its short form, and the command that runs them."""

import json

import pytest

from tests.campaigns import __main__ as command
from tests.campaigns import campaign, schedules
from tests.campaigns.campaign import Case, Tally, cases, names, run


@pytest.mark.parametrize("name", names())
def test_the_short_form_holds(name):
    told: list[str] = []
    tally = Tally()
    list(run(cases(name, full=False), tally, told.append))
    assert tally.tried > 0
    assert not tally.failed, "\n".join(told)


def breaks():
    raise AssertionError("3 bits are wrong")


TRIED = Case("good", lambda: "7 ULP"), Case("bad", breaks), Case("last", str)


@pytest.fixture
def moon(monkeypatch):
    monkeypatch.setattr(command, "cases", lambda name, full: iter(TRIED))
    monkeypatch.setattr(command, "names", lambda: ["moon"])


def test_a_case_that_fails_is_counted_and_the_next_one_is_tried(capsys, moon):
    tally = Tally()
    assert len(list(run(iter(TRIED), tally))) == 3
    assert str(tally) == "tried 3, held 2, failed 1"
    assert tally.failed == {"bad": "AssertionError: 3 bits are wrong"}
    assert tally.figures["good"] == "7 ULP"
    assert command.main(["moon"]) == 1
    assert "moon: tried 3, held 2, failed 1" in capsys.readouterr().out


def test_a_campaign_goes_on_where_its_record_ends(capsys, moon, tmp_path, monkeypatch):
    file = tmp_path / "moon.json"
    calls = ["moon", "--out", str(file), "--resume"]
    clock = iter([0.0, 1.0, 61.0])  # one case is begun within a minute, none after
    monkeypatch.setattr(command.time, "monotonic", lambda: next(clock))
    assert command.main([*calls, "--minutes", "1"]) == 0
    first = json.loads(file.read_text())
    assert first["campaigns"]["moon"]["tried"] == 1
    monkeypatch.undo()
    monkeypatch.setattr(command, "cases", lambda name, full: iter(TRIED))
    monkeypatch.setattr(command, "names", lambda: ["moon"])
    assert command.main(calls) == 1
    whole = json.loads(file.read_text())
    assert whole["campaigns"]["moon"] == {
        "sources": first["campaigns"]["moon"]["sources"],
        "tried": 3,
        "held": 2,
        "failed": {"bad": "AssertionError: 3 bits are wrong"},
        "figures": {"good": "7 ULP", "last": ""},
    }
    with pytest.raises(SystemExit):
        command.main([*calls, "--full"])
    assert "the file has form short, not full" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["moon", "--resume"])
    assert "--resume needs the file" in capsys.readouterr().err


def test_an_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["moon"])
    assert "no campaign is called moon" in capsys.readouterr().err
    assert campaign.NOT_CAMPAIGNS == ("__main__", "campaign")


def test_an_array_of_steps_that_is_nan_is_skipped():
    """The short form has one row of each argument; this one did not hold."""
    told = schedules.guarded("ema_overwrite_every", "array", "skip_nonfinite")
    assert told == "4 of 12 values skipped"
