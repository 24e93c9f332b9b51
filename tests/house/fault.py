"""One planted fault, and how the tests that notice it are selected."""

from typing import NamedTuple


class Fault(NamedTuple):
    """One line of the package replaced by a wrong one."""

    name: str
    path: str
    """The file, from the package's folder."""
    old: str
    """What it says, exactly once."""
    new: str
    noticed_by: str
    """The test that must fail, as pytest selects it, from the folder of tests."""


KNOB = "rules/test_knobs.py::test_a_knob_away_from_its_default"
ALL_ON = "rules/test_knobs.py::test_other_dtypes_with_everything_on"
DEFAULT = f"{KNOB}[learning_rate-options0-theirs0]"


def knob(name: str) -> str:
    """Select the rows of one knob."""
    return f"rules/test_knobs.py -k 'test_a_knob and {name}-'"
