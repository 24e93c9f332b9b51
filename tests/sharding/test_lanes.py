"""The tests of layouts that need eight devices, in a process of their own."""

from pathlib import Path

import pytest

from tests.support import lane

FLAGS = "--xla_force_host_platform_device_count=8"


@pytest.mark.parametrize("cases", ["short", "long"])
@pytest.mark.parametrize(
    "file", ["layouts", "manual", "offload", "reproducible", "zero1"]
)
def test_layouts_on_eight_devices(file, cases):
    """The first in the short lane, the second in the long one."""
    lane.run(Path(__file__).with_name(f"{file}.py"), FLAGS, cases)
