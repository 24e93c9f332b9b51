"""Tables of pages, printed from committed results.

    python -m benchmarks.pages

It writes each table anew between its marks in README.md and docs/; a test prints them
again and compares.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.compiled import PHASES
from benchmarks.picture import NAMES, milliseconds
from benchmarks.precision.report import table
from benchmarks.ratios import Spread, per_round
from benchmarks.topology import table as topology

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"

_NATIVE, _XLA = "optadamw+native", "optadamw+xla"
_CONFIGS = {
    "adamw": "AdamW",
    "clip": "+ global clip",
    "clip-ema": "+ global clip + average of the parameters",
    "amsgrad": "AMSGrad",
    "clip-ema-guard": "+ global clip + average + guard",
    "8-bit": "moments in 8 bits",
}
_TREES = {
    "large": "4 leaves of 8M",
    "odd": "32 leaves of odd sizes, 31M in all",
    "transformer": "a decoder, 116 leaves, 31M in all",
    "small": "1,000 leaves of 4K",
}
_FORMS = {
    "float32": (_NATIVE, _XLA),
    "moments in 8 bits": ("optadamw+8bit+native", "optadamw+8bit+xla"),
    '`precision="compact"`': ("optadamw+compact+native", "optadamw+compact+xla"),
}

_PRECISIONS = {
    '`"full"`': ("float32", 4, "optadamw", "adamw"),
    '`"mixed"`': ("bfloat16", 2, "optadamw+mixed", "mixed"),
    '`"compact"`': ("bfloat16", 2, "optadamw+compact", "compact"),
    "`optax.adamw`": ("bfloat16", 2, None, "bfloat16, Optax"),
}
"""For each form: dtype and bytes of parameters, and who has it on CPU and elsewhere."""
_DEVICES = {
    f"{kind}:{shape}, jax 0.10.2": kind
    for kind, shape in (("v5e", "1x1"), ("v6e", "1x1"), ("h100", "1x1x1"))
}

Report = Mapping[str, Any]


def compared(large: Report) -> str:
    """Sets the milliseconds of a step of every library, the least of a row in bold."""
    cases = {case["config"]: case["contenders"] for case in large["cases"]}
    names = [name for name in NAMES if all(name in c for c in cases.values())]
    rows = []
    for config, contenders in cases.items():
        times = [milliseconds(contenders[name]) for name in names]
        cells = [f"{time:.1f}" for time in times]
        cells[times.index(min(times))] = f"**{cells[times.index(min(times))]}**"
        rows.append((_CONFIGS[config], *cells))
    clip = next(case for case in large["cases"] if case["config"] == "clip")
    label = "temporaries with clip, relative to the parameters' bytes"
    rows.append((label, *(_temporaries(clip, name) for name in names)))
    return table(("", *(NAMES[name] for name in names)), rows)


def memory(precision: Report) -> str:
    """Sets bytes per parameter: kept, at the peak of a step, and moved by a step."""
    (case,) = precision["cases"]
    elsewhere = topology.read()
    rows = []
    for label, (dtype, width, here, there) in _PRECISIONS.items():
        found = {kind: elsewhere[name][there] for name, kind in _DEVICES.items()}
        kept = {f"{one['argument_bytes'] - width:.2f}" for one in found.values()}
        (text,) = kept  # the arrays of a step are those of every backend
        peaks = [one["argument_bytes"] + one["temporaries"] for one in found.values()]
        on_cpu = "-"
        if here is not None:
            ours = case["contenders"][here]
            taken = ours["donated_bytes"] + ours["temporary_bytes"]
            on_cpu = f"{width + taken / case['parameters']:.1f}"
        cells = [f"{peak:.1f}" for peak in peaks]
        cells += [f"{one['bytes']:.1f}" for one in found.values()]
        rows.append((label, dtype, text, on_cpu, *cells))
    kinds = [kind.replace("h", "H") for kind in _DEVICES.values()]
    peaks = [f"peak: {kind}" for kind in ("CPU", *kinds)]
    moved = [f"moved: {kind}" for kind in kinds]
    return table(("`precision=`", "parameters", "kept", *peaks, *moved), rows)


def steps(native: Report) -> str:
    """Sets the time of a step by kernels as ratios to other ways, case by case."""
    peers = {_XLA: "of XLA's path", "optax": "of Optax", "torch": "of PyTorch fused"}
    parts = []
    for tree, title in _TREES.items():
        cases = [case for case in native["cases"] if case["tree"] == tree]
        rows = [
            (_CONFIGS[c["config"]], *(_cell(_ratio(c, _NATIVE, n)) for n in peers))
            for c in cases
        ]
        if rows:
            parts.append(table((title, *peers.values()), rows))
    return "\n\n".join((*parts, _machine(native)))


def windows(applied: Report) -> str:
    """Sets the time of the call that applies a window, likewise."""
    (case,) = applied["cases"]
    ours = "optadamw+abort+native"
    peers = {"optadamw+abort+xla": "of XLA's path", "optax": "of Optax"}
    row = (
        "mean of 2, finite check, global clip, AdamW, average",
        *(_cell(_ratio(case, ours, name)) for name in peers),
    )
    return "\n\n".join((table(("", *peers.values()), [row]), _machine(applied)))


def forms(precision: Report) -> str:
    """Sets the time of each form of moments as ratios to the step in float32."""
    (case,) = precision["cases"]
    rows = []
    for label, (native, xla) in _FORMS.items():
        of_kernel = "1" if native == _NATIVE else _cell(_ratio(case, native, _NATIVE))
        by_xla = "1" if xla == _XLA else _cell(_ratio(case, xla, _XLA))
        rows.append((label, of_kernel, _cell(_ratio(case, native, _XLA)), by_xla))
    header = (
        "",
        "by kernels, of the kernel's step in float32",
        "by kernels, of XLA's step in float32",
        "by XLA, of XLA's step in float32",
    )
    return "\n\n".join((table(header, rows), _machine(precision)))


def building(compiled: Report) -> str:
    """Sets the time to trace, lower and compile as ratios to Optax's."""
    rows = []
    for case in compiled["cases"]:
        cells = [_cell(_ratio(case, name, "optax", _built)) for name in (_NATIVE, _XLA)]
        rows.append((_CONFIGS[case["config"]], *cells))
    header = ("1,000 leaves of 4K", "by kernels", "by XLA")
    return "\n\n".join((table(header, rows), _machine(compiled)))


def divided(devices: Report) -> str:
    """Sets the time of a step on several devices as ratios to XLA's path."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for case in devices["cases"]:
        column = f"{case['devices']} devices, {case['layout']}"
        row = found.setdefault((_CONFIGS[case["config"]], case["tree"]), {})
        row[column] = _cell(_ratio(case, _NATIVE, _XLA))
    columns = sorted({column for row in found.values() for column in row})
    rows = [
        (config, tree, *(row.get(column, "-") for column in columns))
        for (config, tree), row in found.items()
    ]
    return "\n\n".join((table(("", "leaves", *columns), rows), _machine(devices)))


TABLES: dict[tuple[str, str], tuple[Callable[[Report], str], str]] = {
    ("README.md", "compared"): (compared, "cpu-large"),
    ("README.md", "memory"): (memory, "cpu-precision"),
    ("docs/guides/native.md", "divided"): (divided, "cpu-devices"),
    ("docs/guides/native.md", "steps"): (steps, "cpu-native"),
    ("docs/guides/native.md", "windows"): (windows, "cpu-native-apply"),
    ("docs/guides/native.md", "forms"): (forms, "cpu-native-precision"),
    ("docs/guides/native.md", "building"): (building, "cpu-native-compile"),
}
"""For each page and name of a table, how it is printed and from which result."""


def printed(page: str, name: str) -> str:
    """Return a table as it stands between its marks."""
    made, result = TABLES[page, name]
    return made(json.loads((RESULTS / f"{result}.json").read_text()))


def replaced(text: str, name: str, content: str) -> str:
    """Return the text of a page with other content between the marks of a table.

    Raises:
      ValueError: the page has no such marks, or has them twice.
    """
    marks = f"<!-- table: {name} -->", f"<!-- end: {name} -->"
    pattern = f"(?<={re.escape(marks[0])}\n\n).*?(?=\n\n{re.escape(marks[1])})"
    text, count = re.subn(pattern, lambda _: content, text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{marks[0]} and {marks[1]} stand {count} times; expected 1.")
    return text


def main() -> None:
    """Write all tables."""
    for page, name in TABLES:
        path = ROOT / page
        path.write_text(replaced(path.read_text(), name, printed(page, name)))


def _stepped(figures: Mapping[str, Any]) -> Any:
    return figures.get("step_s")


def _built(figures: Mapping[str, Any]) -> Any:
    phases = [figures.get(name) for name in PHASES]
    return all(phases) and [sum(seconds) for seconds in zip(*phases, strict=True)]


def _ratio(
    case: Mapping[str, Any],
    name: str,
    against: str,
    times: Callable[[Mapping[str, Any]], Any] = _stepped,
) -> Spread | None:
    found = [times(case["contenders"].get(n, {})) for n in (name, against)]
    return per_round(*found) if all(found) else None


def _cell(ratio: Spread | None) -> str:
    if ratio is None:
        return "-"
    if f"{ratio.lower:.2f}" == f"{ratio.upper:.2f}":
        return f"{ratio.median:.2f}"
    return f"{ratio.median:.2f} [{ratio.lower:.2f}, {ratio.upper:.2f}]"


def _temporaries(case: Mapping[str, Any], name: str) -> str:
    taken = case["contenders"][name].get("temporary_bytes")
    if taken is None:
        return "-"
    percent = 100 * taken / case["parameter_bytes"]
    return f"{percent:.2f} %" if percent < 1 else f"{percent:.0f} %"


def _machine(report: Report) -> str:
    """Says in a sentence where the figures come from, and how busy it was there."""
    named = {name for case in report["cases"] for name in case["contenders"]}
    labels = {"jax": "jax", "optax": "Optax", "keras": "Keras", "torch": "PyTorch"}
    versions = ", ".join(
        f"{label} {report['versions'][name]}"
        for name, label in labels.items()
        if name == "jax" or name in named
    )
    taken = [
        found["others"] or 0.0
        for case in report["cases"]
        for found in case["disturbance"].values()
    ]
    least, most = f"{min(taken):.1f}", f"{max(taken):.1f}"
    busy = most if least == most else f"{least} to {most}"
    cpu, cores = report["machine"]["cpu"], report["settings"]["threads"]
    return (
        f"{cpu}, {cores} cores, {versions}; "
        f"other processes took {busy} cores meanwhile."
    )


if __name__ == "__main__":
    main()
