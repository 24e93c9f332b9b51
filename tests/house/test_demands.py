"""The page of the 25 demands: each has its answer, a page, an example and a test."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "demands.md"
TEXT = PAGE.read_text()
ROWS = re.findall(r"^\| (\d+) \| (.+) \| \[(.+): here\]\(#(.+)\) \|$", TEXT, re.M)
SECTIONS = {
    int(number): (title, body)
    for number, title, body in re.findall(
        r"^## (\d+)\. ([^\n]+)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S
    )
}
ISSUE = r"\[\w+#(\d+)\]\(https://github\.com/[\w-]+/[\w.-]+/issues/\d+\)"
ISSUES = rf"{ISSUE}(, {ISSUE})*\."
LINK = re.compile(r"\[[^\]]+\]\(([^)]+)\)")


def slug(heading: str) -> str:
    """The anchor of a heading: that of MkDocs, and of GitHub for these headings."""
    plain = re.sub(r"[^\w\s-]", "", heading.strip().lower())
    return re.sub(r"[\s]+", "-", plain)


def anchors(page: Path) -> set[str]:
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose, re.M)}


def test_the_table_has_25_demands_and_leads_to_their_sections():
    assert [int(number) for number, *_ in ROWS] == list(range(1, 26))
    assert sorted(SECTIONS) == list(range(1, 26))
    for number, _, answer, anchor in ROWS:
        title, body = SECTIONS[int(number)]
        assert anchor == slug(f"{number}. {title}")
        assert answer in ("solved", "solved in part")
        assert (answer == "solved in part") == ("Not solved: " in body), number


@pytest.mark.parametrize("number", SECTIONS)
def test_a_demand_has_a_page_an_example_and_a_test(number):
    _, body = SECTIONS[number]
    assert re.search(r"^```python\n", body, re.M), "no example"
    prose = re.sub(r"^```.*?^```", "", body, flags=re.M | re.S)
    asked = prose.partition("\nDiscussed in ")[2]
    assert re.fullmatch(ISSUES, asked.strip()), "no issue"
    links = [link for link in LINK.findall(prose) if not link.startswith("https://")]
    assert links, "no page"
    for link in links:
        target, _, anchor = link.partition("#")
        page = (PAGE.parent / target).resolve()
        assert page.exists(), link
        assert not anchor or anchor in anchors(page), link
    tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", prose)
    assert tests, "no test"
    for file, name in tests:
        assert f"def {name}(" in (ROOT / file).read_text(), (file, name)
