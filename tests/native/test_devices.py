"""Several devices, in a process of their own."""

from pathlib import Path

from tests.native import running
from tests.support import lane

pytestmark = running.needs_compiler


def test_eight_devices():
    flags = "--xla_force_host_platform_device_count=8"
    lane.run(Path(__file__).with_name("eight_devices.py"), flags)
