"""The planted faults still fit the source, and a sample of them is noticed.

All of them are run by `python -m tests.house.planted_faults`.
"""

import ast

import pytest

from tests.house import planted_faults
from tests.house.fault import DEFAULT, Fault
from tests.house.faults import FAULTS

# Two that the plainest row notices, so that a run takes one compilation.
SAMPLE = ("b2 used for the first moment", "the counter is a Python number")


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return planted_faults.copy_to(tmp_path_factory.mktemp("package"))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_fits_the_source_and_still_parses(fault, tmp_path):
    file = tmp_path / "optadamw" / fault.path
    file.parent.mkdir(parents=True)
    file.write_bytes((planted_faults.ROOT / "optadamw" / fault.path).read_bytes())
    planted_faults.plant(fault, tmp_path)
    ast.parse(file.read_text(encoding="utf-8"))


def test_there_are_thirty_faults_of_different_names():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 30


@pytest.mark.parametrize("old", ["no such line", "import"])
def test_a_line_that_is_not_there_exactly_once_is_refused(old, package):
    fault = Fault("stale", "rules/adam.py", old, "", DEFAULT)
    with pytest.raises(planted_faults.Stale, match="expected 1"):
        planted_faults.plant(fault, package)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_is_noticed(name):
    (fault,) = (fault for fault in FAULTS if fault.name == name)
    noticed, output = planted_faults.is_noticed(fault)
    assert noticed, output


@pytest.mark.parametrize(
    ("name", "new"),
    [
        ("harmless", '"""Means of the gradient and of its square."""'),
        ("does not parse", "="),
    ],
)
def test_only_a_failing_assertion_counts_as_noticing(name, new):
    old = '"""Running means of the gradient and of its square."""'
    fault = Fault(name, "rules/adam.py", old, new, DEFAULT)
    noticed, _ = planted_faults.is_noticed(fault)
    assert not noticed
