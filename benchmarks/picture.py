"""Draw the picture of the README from the results, for light and for dark pages.

    python -m benchmarks.picture

It writes docs/pictures/compared-light.svg and compared-dark.svg; a test draws them
again and compares every byte.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PICTURES = ROOT / "docs" / "pictures"

NAMES = {
    "optadamw": "optadamw",
    "optadamw+xla": "optadamw by XLA",
    "optax": "Optax",
    "keras": "Keras on JAX",
    "torch": "PyTorch fused",
}
_WIDTH, _ROW, _BAR, _LABEL, _ROOM = 880, 24, 16, 160, 60


@dataclass(frozen=True)
class Colors:
    """The colors of one picture."""

    ink: str
    soft: str
    bar: str
    ours: str


COLORS = {
    "light": Colors(ink="#1d2430", soft="#5a6472", bar="#b4bdc9", ours="#0b62a8"),
    "dark": Colors(ink="#e6e9ee", soft="#a3adba", bar="#566273", ours="#74b9f5"),
}


@dataclass(frozen=True)
class Panel:
    """Bars under a title: (label, value, its text, whether it is ours)."""

    title: str
    bars: tuple[tuple[str, float, str, bool], ...]


def panels() -> list[Panel]:
    """Return the panels of the picture, from the results."""
    large = {case["config"]: case for case in _cases("cpu-large")}
    (precision,) = _cases("cpu-precision")
    return [
        _times("AdamW: ms per step", large["adamw"]),
        _times("+ global clip + average: ms per step", large["clip-ema"]),
        Panel(
            "Parameters and state: bytes per parameter",
            (
                _bytes("optadamw, compact", precision, "optadamw+compact", ours=True),
                _bytes("Optax, float32", large["adamw"], "optax"),
                _bytes("Keras, float32", large["adamw"], "keras"),
            ),
        ),
        Panel(
            "Temporaries of a clipped step: % of parameters",
            tuple(
                _temporaries(name, large["clip-ema"])
                for name in ("optadamw", "optax", "keras")
            ),
        ),
    ]


def draw(colors: Colors) -> str:
    """Return the picture as SVG."""
    column = _WIDTH // 2
    parts, bottom = [], 0
    for index, panel in enumerate(panels()):
        x, y = column * (index % 2), 148 * (index // 2)
        parts += _panel(panel, x, y, column, colors)
        bottom = max(bottom, y + 34 + _ROW * len(panel.bars))
    note = (
        "4 x 8M float32 parameters, 2 CPU cores, everything donated; shorter is better."
    )
    parts.append(_text(0, bottom + 22, note, colors.soft, 12))
    told = "; ".join(
        f"{panel.title}: "
        + ", ".join(f"{label} {text}" for label, _, text, _ in panel.bars)
        for panel in panels()
    )
    height = bottom + 34
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
            f'role="img" font-family="system-ui, sans-serif">',
            f"<title>{escape(told)}</title>",
            *parts,
            "</svg>\n",
        ]
    )


def main() -> None:
    """Write both pictures."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, colors in COLORS.items():
        (PICTURES / f"compared-{name}.svg").write_text(draw(colors), encoding="utf-8")


def milliseconds(contender: Mapping[str, Any]) -> float:
    """Return the median time of a step in a result: of the medians of all turns."""
    turns = contender["step_s"]
    return 1e3 * float(np.median([np.median(turn) for turn in turns]))


def _cases(name: str) -> list[dict[str, Any]]:
    return json.loads((RESULTS / f"{name}.json").read_text())["cases"]


def _times(title: str, case: dict[str, Any]) -> Panel:
    bars = []
    for name, label in NAMES.items():
        if name not in case["contenders"]:
            continue
        value = milliseconds(case["contenders"][name])
        bars.append((label, value, f"{value:.1f}", name == "optadamw"))
    return Panel(title, tuple(bars))


def _bytes(
    label: str, case: dict[str, Any], name: str, ours: bool = False
) -> tuple[str, float, str, bool]:
    # All that a step takes and returns is donated: parameters and state.
    value = case["contenders"][name]["donated_bytes"] / case["parameters"]
    return label, value, f"{value:.3g}", ours


def _temporaries(name: str, case: dict[str, Any]) -> tuple[str, float, str, bool]:
    taken = case["contenders"][name]["temporary_bytes"]
    value = 100 * taken / case["parameter_bytes"]
    return NAMES[name], value, f"{value:.2f}", name == "optadamw"


def _panel(panel: Panel, x: int, y: int, column: int, colors: Colors) -> list[str]:
    longest = max(value for _, value, _, _ in panel.bars)
    room = column - _LABEL - _ROOM
    parts = [_text(x, y + 18, panel.title, colors.ink, 14, weight=600)]
    for row, (label, value, text, ours) in enumerate(panel.bars):
        top = y + 34 + _ROW * row
        length = max(2.0, room * value / longest)
        fill = colors.ours if ours else colors.bar
        weight = 600 if ours else 400
        parts += [
            _text(x, top + 12, label, colors.ink, 13, weight=weight),
            f'<rect x="{x + _LABEL}" y="{top}" width="{length:.1f}" '
            f'height="{_BAR}" rx="3" fill="{fill}"/>',
            _text(
                x + _LABEL + length + 6, top + 12, text, colors.ink, 13, weight=weight
            ),
        ]
    return parts


def _text(
    x: float, y: float, text: str, color: str, size: int, weight: int = 400
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" fill="{color}" font-size="{size}" '
        f'font-weight="{weight}">{escape(text)}</text>'
    )


if __name__ == "__main__":
    main()
