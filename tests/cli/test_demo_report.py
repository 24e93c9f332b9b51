"""The report in a real browser: headless Chromium opens it from disk."""

import json
import re
import shutil
import subprocess

import pytest

pytest.importorskip("flax")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from optadamw.cli.demo import page
from optadamw.cli.demo.chapter import Chapter, Plot
from optadamw.cli.demo.figures import losses

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
LOOK = """<script>addEventListener("load", () => {
  document.title = JSON.stringify({
    images: [...document.images].map(i => i.complete && i.naturalWidth),
    scrolling: [...document.querySelectorAll("main *")]
      .filter(e => e.scrollWidth > e.clientWidth && getComputedStyle(e).overflowX
        !== "visible").map(e => e.tagName),
    page: document.documentElement.scrollWidth, window: innerWidth,
    paper: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
    requests: performance.getEntriesByType("resource")
      .map(r => r.name.slice(0, 40)).filter(n => !n.startsWith("data:")),
  })})</script>"""


@pytest.fixture
def report(tmp_path):
    """A report with every kind of content, and a script that looks at it."""
    history = [{"epoch": n, "validation_loss": 1 / n} for n in range(1, 9)]
    plot = losses({"a": history, "b": history}, tmp_path / "plot.png")
    narrow = tmp_path / "narrow.png"
    figure = Figure(figsize=(4, 6))
    figure.savefig(narrow, dpi=130)
    table = [[f"a column with a heading {i}" for i in range(6)]] * 4
    plots = [Plot(plot, "x"), Plot(plot, "x", narrow)]
    chapter = Chapter(
        "A title", "A question? " * 20, ["found"], table, plots, {}, ["no"]
    )
    path = tmp_path / "report.html"
    path.write_text(page.write({"training": chapter}, {"jax": "1"}) + LOOK, "utf-8")
    return path


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it(report, tmp_path, width, dark):
    # Chromium's own windows are at least 500 wide; a frame can be narrower.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe src="report.html" style="width:{width}px;height:900px;border:0">'
        '</iframe><script>addEventListener("load", () => setTimeout(() => {'
        "document.title = frames[0].document.title }, 300))</script>"
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"]
    command += ["--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'u'}"]
    command += ["--virtual-time-budget=3000", "--dump-dom"]
    if dark:
        command.append("--blink-settings=preferredColorScheme=0")
    finished = subprocess.run(
        [*command, frame.as_uri()], capture_output=True, text=True, timeout=120
    )
    seen = json.loads(re.search(r"<title>(.*?)</title>", finished.stdout)[1])
    # The second plot has a form of its own for narrow screens, 520 pixels wide.
    assert seen["images"] == [780, 520 if width == 360 else 780]
    assert seen["window"] == width
    assert seen["page"] <= width  # nothing hangs over at the side
    assert seen["scrolling"] == []  # nor scrolls there in a box of its own
    assert seen["requests"] == []
    light = "rgb(255, 255, 255)"
    assert (seen["paper"] == light) != dark
    assert seen["paper"] != seen["ink"]
