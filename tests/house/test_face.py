"""The face of `import optadamw`: its names, its folders, its version, its types."""

import importlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import optadamw

ROOT = Path(__file__).parents[2]
ROOMS = (
    "checkpoint",
    "dialects",
    "integrations",
    "interchange",
    "plotting",
    "schedules",
)


def run(program: str) -> str:
    """The output of a program in a process of its own, far from this checkout."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin"},
        cwd=ROOT.anchor,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_dir_shows_the_public_names_and_nothing_else():
    assert dir(optadamw) == sorted(optadamw.__all__)
    for name in optadamw.__all__:
        assert name == "__version__" or not name.startswith("_")
        assert getattr(optadamw, name) is not None
    assert len(set(optadamw.__all__)) == len(optadamw.__all__) >= 45


def test_one_page_has_every_public_name():
    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    rows = dict(re.findall(r"(?m)^\| `([\w.]+)` \| (.*) \|$", page))
    rooms = [room for room in (*ROOMS, "custom") if room not in ("dialects",)]
    rooms += [f"dialects.{peer}" for peer in dir(optadamw.dialects)]
    for room in rooms:
        module = importlib.import_module(f"optadamw.{room}")
        public = {name for name in dir(module) if not name.startswith("_")}
        if room == "integrations":  # whose names need the libraries
            assert public == {r.split(".")[1] for r in rows if r.startswith(room)}
            continue
        public -= {n for n in public if inspect.ismodule(getattr(module, n))} | {"CALL"}
        if room.startswith("dialects."):
            public -= {n for n in public if hasattr(optadamw.interchange, n)}
        assert public == set(re.findall(r"`(\w+)`", rows.get(room, ""))), room


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'optadamw' has no attribute"):
        optadamw.no_such_name  # noqa: B018


def test_rooms_are_reached_without_an_import_of_their_own():
    used = "; ".join(f"optadamw.{room}" for room in ROOMS)
    heavy = "('matplotlib', 'flax', 'equinox', 'orbax', 'torch', 'h5py')"
    told = run(
        f"import sys, optadamw; {used}; optadamw.dialects.torch.AdamW; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    assert told == "[]"


def test_every_name_can_be_imported_at_once():
    told = run("from optadamw import *; print(adamw, checkpoint.save, plotting)")
    assert "function adamw" in told and "function save" in told


def test_a_plot_imports_matplotlib():
    used = "import sys, optadamw; optadamw.plotting.curves; "
    assert run(used + "print('matplotlib' in sys.modules)") == "True"


def test_a_module_that_is_a_face_can_be_imported_in_every_way():
    told = run(
        "import optadamw.plotting; from optadamw.plotting import curves; "
        "from optadamw import plotting; print(plotting.curves is curves, dir(plotting))"
    )
    plots = [
        "curves",
        "heatmap",
        "memory",
        "range_test",
        "schedules",
        "update_to_weight",
    ]
    assert told == f"True {plots}"


def test_the_version_is_that_of_the_checkout_and_of_the_build():
    assert run("import optadamw; print(optadamw.__version__)") == optadamw.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    source = (ROOT / project["tool"]["hatch"]["version"]["path"]).read_text()
    assert f'"{optadamw.__version__}"' in source
    try:
        installed = importlib.metadata.version("optadamw")
    except importlib.metadata.PackageNotFoundError:
        return  # a checkout that is not installed
    assert installed == optadamw.__version__


def test_types_are_shipped_and_a_strict_checker_takes_a_users_lines():
    assert (ROOT / "optadamw" / "py.typed").exists()
    pytest.importorskip("mypy", reason="mypy is not installed")
    command = [sys.executable, "-m", "mypy", "--strict", "tests/house/typed_use.py"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
