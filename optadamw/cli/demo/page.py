"""The report of the demo: one HTML file that needs no other file and no network."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from optadamw.cli.demo.chapter import Chapter, Plot

_STYLE = """
:root { --paper: #ffffff; --ink: #1d2430; --soft: #5a6472; --line: #dde2e8;
        --card: #f5f7fa; --accent: #0b62a8; color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181f; --ink: #e6e9ee; --soft: #a3adba; --line: #323a46;
          --card: #1d232d; --accent: #74b9f5; }
}
* { box-sizing: border-box; }
body { background: var(--paper); color: var(--ink); margin: 0;
       font: 17px/1.6 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.2rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .6rem; }
h2 { font-size: 1.35rem; line-height: 1.3; margin: 3rem 0 .6rem; }
p { max-width: 44rem; }
.soft { color: var(--soft); font-size: .9rem; }
ul.findings { list-style: none; padding: 0; }
ul.findings li { background: var(--card); border-left: 4px solid var(--accent);
                 border-radius: 4px; margin: .5rem 0; padding: .6rem .9rem; }
ul.findings.failed li { border-left-color: #d55e00; }
figure { margin: 1.2rem 0; background: #fff; border: 1px solid var(--line);
         border-radius: 8px; padding: .6rem; }
img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem;
        font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .4rem .8rem .4rem 0;
         text-align: left; vertical-align: bottom; }
pre { background: var(--card); border-radius: 6px; padding: .8rem 1rem;
      overflow-x: auto; }
code { font-family: ui-monospace, monospace; font-size: .92em; }
a { color: var(--accent); }
@media (max-width: 40rem) {
  /* A row of a table becomes a card, so that nothing scrolls to the side. */
  pre { white-space: pre-wrap; }
  table, tbody, tr, td { display: block; }
  thead { display: none; }
  tr { border-bottom: 1px solid var(--line); padding: .5rem 0; }
  td { border: 0; display: flex; gap: 1rem; justify-content: space-between;
       padding: .1rem 0; }
  td:first-child { font-weight: 600; }
  td:not(:first-child)::before { color: var(--soft); content: attr(data-head); }
  td:not(:first-child) { text-align: right; }
  td::before { text-align: left; }
}
"""

_OPENING = """
<p>AdamW is Adam with <em>decoupled</em> weight decay. Adam keeps two running means of
each gradient g, its direction m and its size v, and divides one by the root of the
other. AdamW then moves each weight p by that ratio and, apart from it, a little
towards zero:</p>
<pre>m = b1 m + (1 - b1) g
v = b2 v + (1 - b2) g^2
p = p - rate * m' / (sqrt(v') + eps) - rate * decay * p</pre>
<p>(m' and v' are m and v divided by 1 - b1^t and 1 - b2^t, because both start at
zero.) Older code added <code>decay * p</code> to the gradient instead, where Adam
divides it by the same root. This page shows the difference, and parts of the library
<code>optadamw</code>, on data that your computer trained on just now.</p>
"""


def write(chapters: Mapping[str, Chapter], versions: Mapping[str, str]) -> str:
    """Return the report as HTML.

    Args:
        chapters: The chapters, by the name of their part.
        versions: The version of each package.
    """
    sections = "\n".join(_section(name, part) for name, part in chapters.items())
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>AdamW, shown by optadamw</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>AdamW, shown on your computer</h1>
{_OPENING}
{sections}
<h2 id="again">Run it again</h2>
<p>Equal arguments on the same machine give the same numbers: <code>optadamw demo
--help</code> lists them. All numbers of this page and more are in
<code>summary.json</code> beside it.</p>
<p class="soft">{html.escape(told)}</p>
</main>
</body>
</html>
"""


def _section(name: str, chapter: Chapter) -> str:
    parts = [
        f'<section id="{name}">',
        f"<h2>{html.escape(chapter.title)}</h2>",
        f"<p>{html.escape(chapter.question)}</p>",
        _list(chapter.failures, "findings failed"),
        _list(chapter.findings, "findings"),
        *map(_figure, chapter.plots),
        _table(chapter.table),
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _list(texts: Sequence[str], kind: str) -> str:
    if not texts:
        return ""
    items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
    return f'<ul class="{kind}">{items}</ul>'


def _figure(plot: Plot) -> str:
    alternative = html.escape(plot.alternative, quote=True)
    image = f'<img src="{_inline(plot.path)}" alt="{alternative}">'
    if plot.narrow is not None:
        source = f'<source media="(max-width: 40rem)" srcset="{_inline(plot.narrow)}">'
        image = f"<picture>{source}{image}</picture>"
    return f"<figure>{image}</figure>"


def _inline(path: Path) -> str:
    """Return the address of a PNG file that is written into the page."""
    encoded = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:image/png;base64,{encoded}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head, *body = ([html.escape(cell) for cell in row] for row in rows)
    heading = "".join(f"<th>{cell}</th>" for cell in head)
    lines = "".join(f"<tr>{_cells(head, row)}</tr>" for row in body)
    return (
        f'<div class="wide"><table><thead><tr>{heading}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _cells(head: Sequence[str], row: Sequence[str]) -> str:
    """Return the cells of a row; narrow screens show the heading beside each."""
    pairs = zip(head, row, strict=True)
    return "".join(f'<td data-head="{name}">{cell}</td>' for name, cell in pairs)
