"""Prose is executed: every snippet of the README and the docs, every docstring."""

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import warnings
from pathlib import Path

import pytest

import optadamw

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
GUIDES = [page for page in PAGES if "```python before\n" in page.read_text()]
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("*/README.md"))]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(optadamw.__path__, "optadamw.")
    if not module.name.startswith("optadamw.__main__")
)
PUBLIC = sorted(name for name in vars(optadamw) if not name.startswith("_"))
PUBLIC = [name for name in PUBLIC if not inspect.ismodule(getattr(optadamw, name))]


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_snippets_run(page, capsys):
    namespace: dict[str, object] = {"__name__": "snippet"}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Parameter .* is rounded to nearest")
        for block in _blocks(page, "python"):
            exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", GUIDES, ids=_name)
def test_what_others_write_compiles(page):
    """These blocks run in tests/dialects/test_guides.py, where the other library is."""
    for block in _blocks(page, "python before"):
        compile(block, str(page), "exec")


def test_printed_plan_is_the_real_one(capsys):
    page = ROOT / "docs" / "guides" / "parameters.md"
    namespace: dict[str, object] = {}
    for block in _blocks(page, "python"):
        exec(compile(block, str(page), "exec"), namespace)
    # The last line names the C compiler of a machine, or says why kernels are not used.
    printed, stated = capsys.readouterr().out, _blocks(page, "text")[0]
    plans = [text.strip().rpartition("\n") for text in (printed, stated)]
    assert plans[0][0] == plans[1][0]
    assert all(re.fullmatch(r"pass: \w+ \(.+\)", line) for _, _, line in plans)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_run(name):
    pytest.importorskip("flax") if ".demo" in name else None
    if name == "optadamw.integrations.keras":
        os.environ.setdefault("KERAS_BACKEND", "jax")
        pytest.importorskip("keras", reason="Keras is not installed")
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name):
    doc = inspect.getdoc(getattr(optadamw, name))
    assert doc, f"{name} has no docstring"
    if inspect.isfunction(getattr(optadamw, name)):
        assert "Example:" in doc, f"the docstring of {name} has no example"
    mentioned = "\n".join(page.read_text() for page in PAGES)
    assert re.search(rf"\b{name}\b", mentioned), f"no page mentions {name}"


@pytest.mark.parametrize("page", LINKED, ids=_name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_layers_on_the_page_are_those_of_the_package():
    page = (ROOT / "docs" / "ideas" / "design.md").read_text()
    listed = re.search(r"## Layers.*?```text\n(.*?)```", page, re.S)
    assert listed
    names = {n for n in re.split(r"[,\s]+", listed[1]) if n}
    parts = {name.split(".")[1] for name in MODULES}
    assert names == parts - {"__init__", "__main__"}
