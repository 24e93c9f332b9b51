"""The tables of the document, from the results alone."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

_CASES = (
    "outlier",
    "half_zeros",
    "wide_rows",
    "wide_block",
    "rare_rows",
    "rare_columns",
)


def all_of(result: dict[str, Any]) -> str:
    """Every table whose part has been measured, in Markdown."""
    makers: dict[str, Callable[[dict[str, Any]], str]] = {
        "moments": _moments,
        "drift": _drift,
        "stress": _stress,
        "training": _training,
        "speed": _speed,
    }
    return "\n\n".join(make(result) for part, make in makers.items() if part in result)


def _moments(result: dict[str, Any]) -> str:
    problems = result["moments"]
    parts = []
    for name, problem in problems.items():
        rows = [
            [block, *(_number(v) for v in quantiles.values())]
            for block, quantiles in problem["spans"].items()
        ]
        parts.append(
            _table(f"spans of nu, {name}", ["block", "median", "99 %", "99.9 %"], rows)
        )
    head = ["code", "bits"]
    for name in problems:
        head += [f"{name}: median", "norm", "zeroed", "update", "peak"]
    for moment in ("mu", "nu"):
        rows = []
        for label, bits in result["codes"][moment].items():
            row = [label, f"{bits:g}"]
            for problem in problems.values():
                found = problem[moment][label]
                own = found[moment]
                row += [
                    *(_percent(own[k]) for k in ("relative_median", "norm_error")),
                    _percent(own["zeroed"]),
                    _percent(found["update_error"]),
                    _number(found["update_peak"]),
                ]
            rows.append(row)
        parts.append(_table(f"one rounding of {moment}", head, rows))
    rows = [
        [
            label,
            *(
                cell
                for problem in problems.values()
                for cell in (
                    _percent(problem["pairs"][label]["update_error"]),
                    _number(problem["pairs"][label]["update_peak"]),
                )
            ),
        ]
        for label in result["pairs"]
    ]
    head = ["pair", *(f"{n}: {w}" for n in problems for w in ("update", "peak"))]
    return "\n\n".join([*parts, _table("one rounding of both", head, rows)])


def _drift(result: dict[str, Any]) -> str:
    columns = (
        "steady_bias",
        "steady_noise",
        "steady_update_error",
        "quiet_update_error",
        "decay",
    )
    betas = list(next(iter(result["drift"]["nu"].values())))
    rows = [
        [
            label,
            *(
                _number(found[beta][c]) if c == "decay" else _percent(found[beta][c])
                for beta in betas
                for c in columns
            ),
        ]
        for label, found in result["drift"]["nu"].items()
    ]
    head = ["nu", *(f"{b} {c}" for b in betas for c in columns)]
    of_nu = _table("drift of nu", head, rows)
    columns = ("noise", "gain", "quiet_noise")
    betas = list(next(iter(result["drift"]["mu"].values())))
    rows = [
        [label, *(_percent(found[beta][c]) for beta in betas for c in columns)]
        for label, found in result["drift"]["mu"].items()
    ]
    head = ["mu", *(f"{b} {c}" for b in betas for c in columns)]
    return of_nu + "\n\n" + _table("drift of mu", head, rows)


def _stress(result: dict[str, Any]) -> str:
    parts = []
    for moment, codes in result["stress"].items():
        rows = []
        for label, found in codes.items():
            row = [label]
            for case in _CASES:
                one = found[case]
                peak = one["peak"]
                ratio = None if peak is None else peak / one["float32_peak"]
                row.append(f"{_number(ratio)} / {_percent(one['displacement_error'])}")
            safe = all(one["finite"] for one in found.values())
            rows.append([*row, "yes" if safe else "no"])
        head = [moment, *_CASES, "finite"]
        parts.append(_table(f"peak / displacement, {moment}", head, rows))
    return "\n\n".join(parts)


def _training(result: dict[str, Any]) -> str:
    problems = result["training"]
    rows = [
        [
            label,
            *(
                _thousandths(one)
                for one in (p["pairs"].get(label) for p in problems.values())
            ),
        ]
        for label in result["pairs"]
    ]
    means = [sum(p["float32"]) / len(p["float32"]) for p in problems.values()]
    rows.insert(0, ["float32 (loss)", *(f"{mean:.4f}" for mean in means)])
    return _table("loss less float32's, in thousandths", ["pair", *problems], rows)


def _speed(result: dict[str, Any]) -> str:
    rows = [
        [
            label,
            f"{found['ratio']:.2f}",
            f"{found['temporary_bytes']:.2f}",
            f"{found['state_bytes']:.2f}",
        ]
        for label, found in result["speed"]["pairs"].items()
    ]
    head = ["pair", "time / float32", "temporary bytes", "state bytes"]
    return _table("one step of one leaf, per parameter", head, rows)


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return f"### {title}\n\n" + "\n".join(lines)


def _thousandths(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    if found["difference"] is None:
        return "diverges"
    return f"{1e3 * found['difference']:+.2f} ± {1e3 * found['standard_error']:.2f}"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"


def _percent(value: float | None) -> str:
    if value is None:
        return "not finite"
    return f"{100 * value:.1f} %" if abs(value) < 10 else f"{value:.1e} x"
