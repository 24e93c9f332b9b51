"""Hooks of the site: formulas become MathML, links out of docs/ become plain text.

Browsers draw MathML by themselves, so that the site needs no script from another host.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from latex2mathml.converter import convert

_CODE = re.compile(r"(^```.*?^```\s*?$|``.+?``|`[^`\n]+`)", re.M | re.S)
_DISPLAY = re.compile(r"\$\$(.+?)\$\$", re.S)
_INLINE = re.compile(r"(?<![\\$\w])\$(?=\S)([^$\n]+?)(?<=\S)\$(?![\w$])")
_MARKED = re.compile(r"^```(\w+) \w+$", re.M)
_LINK = re.compile(r"\[([^\]]+)\]\(((?!\w+:)[^)#]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Return the page's Markdown for the site; code stays as it is."""
    pieces = _CODE.split(markdown)
    folder = PurePosixPath(page.file.src_uri).parent
    docs = Path(config.docs_dir)
    for index in range(0, len(pieces), 2):
        text = _DISPLAY.sub(lambda found: _math(found[1], "block"), pieces[index])
        pieces[index] = _INLINE.sub(lambda found: _math(found[1], "inline"), text)
    # A second word after the language of a block is for the tests.
    joined = _MARKED.sub(r"```\1", "".join(pieces))
    return _LINK.sub(lambda found: _link(found, docs / folder, docs), joined)


def _math(latex: str, display: str) -> str:
    # Markdown takes an element that it does not know for a block, so it stands in one
    # that it knows.
    element = "div" if display == "block" else "span"
    return f"<{element}>{convert(' '.join(latex.split()), display=display)}</{element}>"


def _link(found: re.Match[str], folder: Path, docs: Path) -> str:
    """Keep a link to a page; of a link to another file of the repository, its text."""
    target = (folder / found[2]).resolve()
    return found[0] if target.is_relative_to(docs.resolve()) else found[1]
