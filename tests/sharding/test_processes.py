"""A training of two processes: a NaN on one, a process killed, a restart elsewhere."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def start(
    folder: Path, count: int, devices: int, first: int, last: int, kill: bool = False
) -> list[Any]:
    """Start the processes, with so many devices each; `kill` ends the last early."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    started = []
    for rank in range(count):
        command = [sys.executable, "-m", "tests.sharding.process"]
        command += [str(x) for x in (rank, count, port, folder, first, last)]
        command += ["killed"] if kill and rank == count - 1 else []
        started.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def digests(processes: list[Any]) -> dict[str, str]:
    """Wait for the processes; all of them print the same digests."""
    found = []
    for process in processes:
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, error[-4000:]
        (line,) = (text for text in out.splitlines() if text.startswith("digests "))
        found.append(json.loads(line.removeprefix("digests ")))
    assert all(other == found[0] for other in found)
    return found[0]


@pytest.mark.parametrize("devices", [(4, 4), (4, 2), (4, 3)], ids=str)
def test_a_killed_training_goes_on_with_the_same_bits(tmp_path, devices):
    """Two processes of four devices, then of as many, of two, of three each."""
    whole = digests(start(tmp_path / "alone", 1, 8, 0, 7))
    assert whole["dropped"] == "1"
    digests(start(tmp_path / "both", 2, devices[0], 0, 5))
    killed = start(tmp_path / "both", 2, devices[0], 5, 7, kill=True)
    assert killed[1].wait(timeout=300) == -signal.SIGKILL
    killed[0].kill()  # it waits for the other, or has noticed that it is gone
    killed[0].communicate()
    assert digests(start(tmp_path / "both", 2, devices[1], 5, 7)) == whole
