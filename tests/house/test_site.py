"""The site has every page and every public name; CI builds it strictly."""

import inspect
import re
from pathlib import Path

import yaml

import optadamw

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = "\n".join(
    page.read_text() for page in sorted((DOCS / "reference").glob("*.md"))
)


class Loader(yaml.SafeLoader):
    """MkDocs's file, without what its tags would import."""


def pages(entry) -> list[str]:
    """The pages of a part of the navigation."""
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [page for part in parts for page in pages(part)]


CONFIG = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)


def test_every_page_is_in_the_navigation_once():
    listed = pages(CONFIG["nav"])
    found = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
    assert sorted(listed) == found


def test_the_build_is_strict_and_loads_nothing():
    assert CONFIG["strict"] is True
    assert CONFIG["theme"]["font"] is False
    assert "extra_javascript" not in CONFIG
    links = CONFIG["validation"]["links"]
    assert links == {"not_found": "warn", "anchors": "warn"}
    assert ".ci/site" in (ROOT / ".ci" / "run").read_text()
    assert ".ci/site python" in (ROOT / ".github/workflows/docs.yml").read_text()


def test_every_public_name_has_its_docstring_in_the_reference():
    shown = set(re.findall(r"^::: optadamw\.(?:\w+\.)?(\w+)$", REFERENCE, re.M))
    wanted = {
        name
        for name in dir(optadamw)
        if not name.startswith("_") and not inspect.ismodule(getattr(optadamw, name))
    }
    assert wanted - shown == set()


def test_what_the_reference_shows_is_there():
    for path in re.findall(r"^::: optadamw\.(\S+)$", REFERENCE, re.M):
        found = optadamw
        # The function `adamw` hides its module of the same name.
        for name in path.removeprefix("adamw.").split("."):
            found = getattr(found, name)
        assert inspect.getdoc(found), path


def test_the_arguments_of_adamw_are_grouped_in_their_order():
    table = (DOCS / "reference" / "adamw.md").read_text().partition(":::")[0]
    rows = [row.split("|")[2] for row in table.splitlines() if row.startswith("| ")]
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert listed == list(inspect.signature(optadamw.adamw).parameters)
