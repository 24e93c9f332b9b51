"""Sharding, on eight fake devices in a process of their own."""

from pathlib import Path

import pytest

from tests.support import lane


@pytest.mark.parametrize("cases", ["short", "long"])
def test_the_laws_of_sharding_hold_on_eight_devices(cases):
    """The first in the short lane, the second in the long one."""
    flags = "--xla_force_host_platform_device_count=8"
    lane.run(Path(__file__).with_name("eight_devices.py"), flags, cases)
