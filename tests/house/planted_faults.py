"""Faults planted in a copy of the package, to see that the suite notices each (R8).

    python -m tests.house.planted_faults                all of them
    python -m tests.house.planted_faults amsgrad ema    those with a word in their name

A suite that passes says little until it is known to fail. Each fault here is one line
of the package's source replaced in a temporary copy, with the test that must notice:
the test is run there and has to fail in an assertion about the result, not in a crash
that any import would show. Without a fault the same tests must pass in such a copy. A
line that no longer occurs exactly once ends the command: the fault has to follow the
source.
"""

import argparse
import concurrent.futures
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from tests.house.fault import Fault
from tests.house.faults import FAULTS

ROOT = pathlib.Path(__file__).parents[2]


class Stale(Exception):
    """A fault whose line is not in the source exactly once."""


def plant(fault: Fault, root: pathlib.Path) -> None:
    """Replace the fault's line under `root`, or raise if it is not there once."""
    file = root / "optadamw" / fault.path
    text = file.read_text(encoding="utf-8")
    found = text.count(fault.old)
    if found != 1:
        raise Stale(
            f"{fault.name!r}: {fault.path} has its line {found} times, expected 1: "
            f"{fault.old!r}. Let the fault follow the source."
        )
    file.write_text(text.replace(fault.old, fault.new), encoding="utf-8")


def copy_to(folder: pathlib.Path) -> pathlib.Path:
    """Copy the package, its tests and the benchmarks, which some of them import."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("optadamw", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    return folder


def run_tests(selection: str, root: pathlib.Path) -> tuple[int, str]:
    """Run pytest on one selection under `root`; return its status and output."""
    node, _, expression = selection.partition(" -k ")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += [str(root / "tests" / node)]
    if expression:
        command += ["-k", expression.strip("'")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def is_noticed(fault: Fault) -> tuple[bool, str]:
    """Plant a fault in a copy and tell whether its test fails in an assertion."""
    with tempfile.TemporaryDirectory() as folder:
        root = copy_to(pathlib.Path(folder))
        plant(fault, root)
        status, output = run_tests(fault.noticed_by, root)
    # 1: tests ran and some failed. Everything else (2: it does not import, 5: nothing
    # is selected) is no verdict of a test.
    verdicts = r"^E +(AssertionError|assert |Failed: DID NOT RAISE)"
    asserted = re.search(verdicts, output, re.MULTILINE)
    return status == 1 and asserted is not None, output


def check_sources() -> None:
    """Raise if a fault's line is not in the source exactly once."""
    with tempfile.TemporaryDirectory() as folder:
        for number, fault in enumerate(FAULTS):
            root = pathlib.Path(folder, str(number))
            (root / "optadamw" / fault.path).parent.mkdir(parents=True)
            shutil.copy(ROOT / "optadamw" / fault.path, root / "optadamw" / fault.path)
            plant(fault, root)


def check_clean(selections: Sequence[str]) -> None:
    """Raise if the tests fail, or none is selected, where nothing is planted."""
    with tempfile.TemporaryDirectory() as folder:
        root = copy_to(pathlib.Path(folder))
        for selection in selections:
            status, output = run_tests(selection, root)
            if status != 0:
                raise SystemExit(f"{selection} fails without a fault:\n{output}")


def main() -> int:
    """Plant each fault and print whether it was noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.house.planted_faults")
    parser.add_argument("words", nargs="*", help="only faults with such names")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    arguments = parser.parse_args()
    words = arguments.words
    faults = [f for f in FAULTS if not words or any(w in f.name for w in words)]
    if not faults:
        raise SystemExit(f"no fault is named like {' or '.join(words)}")
    try:
        check_sources()
    except Stale as error:
        raise SystemExit(str(error)) from error
    began = time.monotonic()
    check_clean(sorted({fault.noticed_by for fault in faults}))
    survivors = []
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for fault, (noticed, output) in zip(
            faults, pool.map(is_noticed, faults), strict=True
        ):
            print("noticed " if noticed else "SURVIVES", fault.name, flush=True)
            if not noticed:
                survivors.append(fault)
                print(output[-2000:])
    took = time.monotonic() - began
    print(f"{len(faults) - len(survivors)} of {len(faults)} noticed in {took:.0f} s")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
