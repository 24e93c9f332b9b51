"""Several devices, in processes of their own."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.native import running
from tests.support import lane

pytestmark = running.needs_compiler
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("cases", ["short", "long"])
def test_eight_devices(cases):
    """The first in the short lane, the second in the long one."""
    flags = "--xla_force_host_platform_device_count=8"
    lane.run(Path(__file__).with_name("eight_devices.py"), flags, cases)


def start(devices, *command, **variables):
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", **variables}
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process, expected):
    try:
        out, error = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, error[-4000:]
    assert out.splitlines()[-1] == expected


@pytest.mark.parametrize("threads", [1, 2, 16])
def test_devices_that_wait_for_each_other_do_not_come_to_a_stop(threads):
    """XLA's pool has as many threads as devices at least, and as many as NPROC."""
    end(start(8, "tests.native.threads", NPROC=str(threads)), "done 8")


def test_two_processes():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    both = [start(2, "tests.native.two_processes", str(i), port) for i in range(2)]
    for process in both:
        end(process, "done 2")
