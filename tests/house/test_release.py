"""The files around a release agree with the package; CI builds and installs it."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import optadamw

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
README = (ROOT / "README.md").read_text()


def load(path: str) -> dict:
    return yaml.safe_load((ROOT / path).read_text())


def commands(workflow: Path) -> list[str]:
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    return [
        step["run"] for job in jobs.values() for step in job["steps"] if "run" in step
    ]


def test_the_version_is_said_once_and_cited():
    assert load("CITATION.cff")["version"] == optadamw.__version__
    assert f"\n## {optadamw.__version__} " in (ROOT / "CHANGELOG.md").read_text()
    assert PROJECT["dynamic"] == ["version"]


def test_pre_commit_has_the_versions_of_the_lints():
    hooks = load(".pre-commit-config.yaml")["repos"][0]["hooks"]
    wanted = [one for hook in hooks for one in hook.get("additional_dependencies", ())]
    assert set(wanted) <= set(PROJECT["optional-dependencies"]["lint"])
    assert [hook["entry"].split()[0] for hook in hooks] == ["ruff", "ruff", "mypy"]


def test_the_matrix_is_that_of_the_classifiers():
    matrix = load(".github/workflows/tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    versions = [
        name.rpartition(" ")[2]
        for name in PROJECT["classifiers"]
        if re.search(r"Python :: 3\.\d+$", name)
    ]
    assert matrix["python"] == versions
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert len(matrix["os"]) == 3


def test_workflows_run_what_the_readme_and_ci_run():
    script = (ROOT / ".ci" / "run").read_text()
    found = commands(ROOT / ".github/workflows/tests.yml")
    install, test = "python -m pip install -e '.[test]'", "python -m pytest -n 2"
    assert install in found and test in found
    assert f"pip install -e '.[test]' && {test}" in README
    for lint in ("ruff check .", "ruff format --check .", "mypy"):
        assert lint in found
        assert lint.split()[0] in script and lint.split()[-1] in script
    assert ".ci/package" in script


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_asks_for_no_more_than_it_needs(workflow):
    contents = yaml.safe_load(workflow.read_text())
    assert contents["permissions"] == {"contents": "read"}
    for job in contents["jobs"].values():
        assert set(job.get("permissions", {})) <= {"id-token", "pages"}
        for step in job["steps"]:
            # A branch or a pinned version; a text of somebody else is never code.
            assert "run" in step or re.search(r"@(v\d|release/v\d)", step["uses"])
            assert "${{" not in step.get("run", "").replace("${{ matrix", "")
    for command in commands(workflow):
        for extra in re.findall(r"\.\[(\w+)\]", command):
            assert extra in PROJECT["optional-dependencies"]


def test_a_release_is_published_without_a_token():
    text = (ROOT / ".github/workflows/release.yml").read_text()
    publish = yaml.safe_load(text)["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"] == "pypi"
    assert "password" not in text and "secrets." not in text


def test_a_license_is_an_expression_alone():
    """PyPI refuses a classifier of a license beside an expression (PEP 639)."""
    assert PROJECT["license"] == "Apache-2.0"
    assert not [name for name in PROJECT["classifiers"] if name.startswith("License")]
