"""Sharding, on eight fake devices in a process of their own."""

from pathlib import Path

from tests.support import lane


def test_the_laws_of_sharding_hold_on_eight_devices():
    flags = "--xla_force_host_platform_device_count=8"
    lane.run(Path(__file__).with_name("eight_devices.py"), flags)
