"""The suite tests what it says: nothing is skipped in silence, nothing is left out."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import conftest, lanes

TESTS = Path(__file__).parents[1]

# A round number below the count, to be raised as the suite grows.
FEWEST = 8_000


def _all_tests(request) -> list[pytest.Item]:
    """Every test of both lanes; none in a run of a part, which says nothing of them."""
    config = request.config
    is_whole = config.args_source is config.ArgsSource.TESTPATHS
    if not is_whole or config.option.keyword or config.option.markexpr:
        return []
    return config.stash[lanes.COLLECTED]


def test_every_file_is_collected(request):
    if items := _all_tests(request):
        missing = set(TESTS.rglob("test_*.py")) - {item.path for item in items}
        # A file that needs a package as a whole is skipped as a whole, and listed.
        listed = {TESTS / file for file, _ in conftest.ALLOWED_SKIPS}
        assert missing - listed == set()
        assert len(items) >= FEWEST


def test_a_machine_without_a_compiler_may_skip_what_compiles():
    """Few machines lack one: only a lane of `.ci/run` would find a file that is new."""
    compiling = {
        str(path.relative_to(TESTS))
        for path in TESTS.rglob("test_*.py")
        if re.search(
            r"^(?:pytestmark = |@|    )running\.needs_compiler", path.read_text(), re.M
        )
    }
    assert "native/test_blocks.py" in compiling
    listed = {
        file for file, reason in conftest.ALLOWED_SKIPS if reason == "no C compiler"
    }
    assert compiling == listed


def test_two_lanes_are_all_tests(request):
    """Every row of the table has its test, and the short lane has most of the tests."""
    if items := _all_tests(request):
        found = {lanes.key(item) for item in items}
        table = {
            (file, function)
            for file, functions in lanes.SHARES.items()
            for function in functions
            if "/test_" in file
        }
        assert table <= found
        short = sum(lanes.is_short(items))
        assert len(items) * 0.5 < short < len(items)
    shares = [n for functions in lanes.SHARES.values() for n in functions.values()]
    assert all(share == 0 or share >= 2 for share in shares)


def test_the_parts_of_a_lane_are_the_lane():
    parts = [lanes.is_in(f"{n}/3", 8) for n in (1, 2, 3)]
    assert [sum(of) for of in zip(*parts, strict=True)] == [1] * 8
    assert lanes.is_in("1/1", 2) == [True, True]
    for wrong in ("", "3", "0/3", "4/3", "a/b", "1/3/5", "-1/3"):
        with pytest.raises(pytest.UsageError, match=r"--part must be as 1/3.* got"):
            lanes.is_in(wrong, 8)


def test_a_skip_that_is_not_listed_fails(tmp_path):
    """However it is asked for, in a run of its own under the suite's conftest."""
    forms = {
        "mark": "@pytest.mark.skip(reason='the moon')\ndef test_it(): pass",
        "call": "def test_it(): pytest.skip('the moon')",
        "condition": "@pytest.mark.skipif(1, reason='the moon')\ndef test_it(): pass",
        "fixture": (
            "@pytest.fixture\ndef broken(): pytest.skip('the moon')\n"
            "def test_it(broken): pass"
        ),
        "module": "pytest.skip('the moon', allow_module_level=True)",
        "package": "pytest.importorskip('the_moon', reason='the moon')",
    }
    files = {f"test_{name}.py": source for name, source in forms.items()}
    done = _pytest(tmp_path, files, "--continue-on-collection-errors")
    assert done.returncode != 0
    assert "1 failed, 5 errors" in done.stdout  # an error is one before the call
    for name in files:
        line = f"{name}.*is skipped for a reason .* does not list: the moon"
        assert re.search(line, done.stdout), done.stdout


def test_a_skip_that_is_listed_and_an_expected_failure_do_not_fail(tmp_path):
    source = (
        "@pytest.mark.skip(reason='PyTorch is not installed')\ndef test_it(): pass\n"
        "@pytest.mark.xfail(strict=True)\ndef test_other(): assert False"
    )
    done = _pytest(tmp_path, {"support/test_oracle.py": source})
    assert done.returncode == 0, done.stdout
    assert "1 skipped, 1 xfailed" in done.stdout


def _pytest(
    folder: Path, files: dict[str, str], *options: str
) -> subprocess.CompletedProcess[str]:
    for name, source in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"import pytest\n\n{source}\n")
    command = (sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest")
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", "--rootdir", folder, *options, folder],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
