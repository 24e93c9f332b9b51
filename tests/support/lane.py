"""Tests that need other flags of XLA, in a process of their own.

A flag is read once, when JAX starts, and would change every other test: a `lane` is a
file of tests that pytest does not collect by itself.
"""

import os
import re
import subprocess
import sys
from pathlib import Path


def run(path: Path, flags: str, lane: str = "all") -> None:
    """Run the tests of `path` under `XLA_FLAGS=flags`; all must pass, none skip.

    `lane` is "short", "long" or "all", as in `tests.lanes`.
    """
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    command += ("--lane", lane)
    done = subprocess.run(
        [*command, "--tb=short", str(path)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    summary = done.stdout.strip().splitlines()[-1]
    assert re.match(r"\d+ passed", summary), summary
    assert "skipped" not in summary, summary
