"""The picture of the README is that of the results, and says what its table says."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from benchmarks import picture

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.mark.parametrize("name", picture.COLORS)
def test_the_picture_is_drawn_from_the_results(name):
    path = picture.PICTURES / f"compared-{name}.svg"
    assert path.read_text(encoding="utf-8") == picture.draw(picture.COLORS[name])
    ElementTree.parse(path)
    assert f"docs/pictures/compared-{name}.svg" in README


def test_the_table_has_the_numbers_of_the_picture():
    rows = ("AdamW", "+ global clip + average of the parameters")
    for panel, row in zip(picture.panels()[:2], rows, strict=True):
        cells = re.search(rf"^\| {re.escape(row)} \| (.*) \|$", README, re.M)[1]
        told = [cell.strip("* ") for cell in cells.split("|")]
        assert told == [text for _, _, text, _ in panel.bars]


def test_a_longer_bar_is_a_larger_number():
    drawn = picture.draw(picture.COLORS["light"])
    lengths = [
        float(found) for found in re.findall(r'<rect .*? width="([\d.]+)"', drawn)
    ]
    values = [value for panel in picture.panels() for _, value, _, _ in panel.bars]
    assert len(lengths) == len(values)
    start = 0
    for panel in picture.panels():
        end = start + len(panel.bars)
        assert sorted(range(start, end), key=values.__getitem__) == sorted(
            range(start, end), key=lambda i: (lengths[i], values[i])
        )
        start = end
