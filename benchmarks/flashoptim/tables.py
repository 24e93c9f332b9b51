"""The comparison as tables in Markdown, from the results alone."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.precision.report import table

CONTENDERS = ("optadamw", "FlashOptim")
_CASES = {
    "half of the gradients are zero": ("normal", "half_zeros"),
    "rows with one gradient in 500 steps": ("normal", "rare_rows"),
    "columns with one gradient in 500 steps": ("normal", "rare_columns"),
    "an outlier of 10^4 in each block": ("normal", "outlier"),
    "rows from 10^-14 to 10^14": ("normal", "wide_rows"),
    "gradients of 10^-21": ("normal", "denormal"),
    "heavy tails, half are zero": ("heavy tails", "half_zeros"),
    "heavy tails, rare rows": ("heavy tails", "rare_rows"),
    "heavy tails, rare columns": ("heavy tails", "rare_columns"),
}


def all_of(found: Mapping[str, Any]) -> str:
    """Every table whose part has been measured."""
    makers = {
        "rounding": _rounding,
        "drift": _drift,
        "stress": _stress,
        "training": _training,
    }
    parts = [make(found[part]) for part, make in makers.items() if part in found]
    return "\n\n".join(parts)


def _rounding(found: Mapping[str, Any]) -> str:
    rows = []
    for problem, of in found.items():
        cells: dict[str, Sequence[Any]] = {
            "error of mu": [of[c]["mu"]["norm_error"] for c in CONTENDERS],
            "error of nu": [of[c]["nu"]["norm_error"] for c in CONTENDERS],
            "nu that become zero": [of[c]["nu"]["zeroed"] for c in CONTENDERS],
            "error of the update": [of[c]["update_error"] for c in CONTENDERS],
        }
        rows += [
            (f"{problem}: {what}", *map(percent, values))
            for what, values in cells.items()
        ]
        peaks = [f"{of[c]['update_peak']:,.2f}" for c in CONTENDERS]
        rows.append((f"{problem}: largest update / exact", *peaks))
    return _titled("one rounding", rows)


def _drift(found: Mapping[str, Any]) -> str:
    rows = []
    for what, moment, beta, figure in (
        ("mu, b1 0.9: noise", "mu", "0.9", "noise"),
        ("mu, b1 0.9: bias", "mu", "0.9", "gain"),
        ("mu, b1 0.95: noise after a fall", "mu", "0.95", "quiet_noise"),
        ("nu, b2 0.999: bias", "nu", "0.999", "steady_bias"),
        ("nu, b2 0.999: error of the update", "nu", "0.999", "steady_update_error"),
        ("nu, b2 0.999: after a fall", "nu", "0.999", "quiet_update_error"),
        ("nu, b2 0.95: error of the update", "nu", "0.95", "steady_update_error"),
    ):
        values = [found[c][moment][beta][figure] for c in CONTENDERS]
        rows.append((what, *map(percent, values)))
    decays = [f"{found[c]['nu']['0.999']['decay']:.2f}" for c in CONTENDERS]
    return _titled("drift", [*rows, ("nu, b2 0.999: decay", *decays)])


def _stress(found: Mapping[str, Any]) -> str:
    rows = []
    for what, (draw, case) in _CASES.items():
        cells = []
        for contender in CONTENDERS:
            one = found[contender][draw][case]
            if not one["finite"]:
                cells.append("not finite")
                continue
            way = percent(one["displacement_error"])
            ratio = one["peak"] / one["float32_peak"] if one["float32_peak"] else 0
            cells.append(f"{way}; {ratio:,.2f}")
        rows.append((what, *cells))
    return _titled("hard blocks: error of the way; largest update / exact", rows)


def _training(found: Mapping[str, Any]) -> str:
    rows = []
    for problem, of in found.items():
        cells = []
        for contender in CONTENDERS:
            one = of[contender]
            failed = sum(loss is None for loss in one["losses"])
            if failed:
                cells.append(f"NaN in {failed} of {len(one['losses'])}")
            else:
                error = one["standard_error"]
                cells.append(f"{one['difference']:+.4f} ± {error:.4f}")
        rows.append((f"{problem}: final loss less float32's", *cells))
    return _titled("training", rows)


def percent(value: float | None) -> str:
    """Sets a share, or a multiple from ten on; None is not finite."""
    if value is None:
        return "not finite"
    return f"{100 * value:.1f} %" if abs(value) < 10 else f"{value:,.0f} x"


def _titled(title: str, rows: Iterable[Sequence[str]]) -> str:
    return f"### {title}\n\n{table(('', *CONTENDERS), rows)}"
