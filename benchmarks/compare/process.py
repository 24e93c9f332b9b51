"""A process that has one checkout on its path and answers questions about it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

_PROBE = Path(__file__).with_name("probe.py")


class Process:
    """One checkout, imported in a process of its own."""

    def __init__(self, checkout: Path) -> None:
        """Start it; `-P` keeps this checkout's folder off its path."""
        if not (checkout / "optadamw" / "__init__.py").is_file():
            raise FileNotFoundError(
                f"`{checkout}` must be a checkout of optadamw, with a folder optadamw "
                "in it. Clone one, or add a worktree: git worktree add FOLDER COMMIT."
            )
        environment = os.environ | {
            "PYTHONPATH": str(checkout.resolve()),
            "PYTHONHASHSEED": "0",
            # A compilation that is read from a disk takes no time.
            "JAX_ENABLE_COMPILATION_CACHE": "false",
        }
        self.checkout = checkout
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_PROBE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def ask(self, what: str, **given: Any) -> None:
        """Send a request, without waiting for its answer."""
        assert self._process.stdin is not None
        print(
            json.dumps({"what": what, "given": given}),
            file=self._process.stdin,
            flush=True,
        )

    def answer(self) -> Mapping[str, Any]:
        """Wait for the answer to the oldest request: its result, or its error."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"The process of {self.checkout} ended; its last words stand above."
            )
        return json.loads(line)

    def result(self, what: str, **given: Any) -> Any:
        """Send a request, wait, and return its result.

        Raises:
          RuntimeError: it ended in an error.
        """
        self.ask(what, **given)
        found = self.answer()
        if "error" in found:
            raise RuntimeError(f"{self.checkout}: {found['error']}")
        return found["result"]
