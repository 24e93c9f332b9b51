"""The paper's figure: the test error over learning rate and weight decay."""

from typing import Any, NamedTuple

import numpy as np

from optadamw.cli.demo import figures
from optadamw.cli.demo.chapter import Chapter, Plot
from optadamw.cli.demo.grid import Grid, Method, train
from optadamw.cli.demo.progress import Progress
from optadamw.cli.demo.settings import Settings

LABELS: dict[Method, str] = {
    "adam_l2": "Adam + L2",
    "adamw": "AdamW, decay as in the paper",
    "adamw_lr": "AdamW, decay times rate (PyTorch, Optax)",
}

_QUESTION = (
    "The paper that introduced AdamW (Loshchilov and Hutter, arXiv 1711.05101, "
    "figures 1 and 2) draws the test error over a grid of learning rates and weight "
    "decays. With L2 regularization, Adam divides the decay by the same root as the "
    "gradient, and both hyperparameters must be searched together. Decoupled decay "
    "acts on the weight itself. With u for Adam's direction, the first map adds decay"
    " * p to the gradient; the second computes p - rate * u - schedule * decay * p, "
    "where the schedule falls from 1 to 0; the third computes p - rate * u - rate * "
    "decay * p. This is that experiment in small: a network whose layers are "
    "normalized, as the paper's are, trained on 200 handwritten digits and tested on "
    "1,597 others. Each map has its own decays, because the decay has another unit in "
    "each formula; the rates are the same. Each map is one program, in which jax.vmap "
    "trains all rates, decays and seeds at once; every hyperparameter of optadamw may "
    "be a traced array."
)


class Measures(NamedTuple):
    """The measures of a map.

    Attributes:
        least_error: The least error of the map, a mean over seeds.
        near_cells: How many cells have an error within 10 % of the least.
        correlation: Correlation of the logarithms of the rate and of the best decay for
            this rate, over the rates whose best error is within 50 % of the least; None
            if fewer than three such rates are left, or all have the same best decay.
        slope: By how many powers of ten the best decay changes for ten times the rate:
            the slope of the line through these points; None for fewer than three.
        spread: By how many powers of ten the best decays differ, over these rates.
        decades: How many powers of ten of rates keep within 50 % of the least error
            with one decay, for the decay that keeps most.
    """

    least_error: float
    near_cells: int
    correlation: float | None
    slope: float | None
    spread: float
    decades: float


def run(settings: Settings, progress: Progress) -> Chapter:
    """Train the three maps and describe them."""
    side, steps, seeds = (6, 150, range(1)) if settings.quick else (12, 400, range(3))
    seeds = range(settings.seed, settings.seed + len(seeds))
    grids = {}
    with progress.task("Heatmap", len(LABELS), "maps") as advance:
        for method in LABELS:
            grids[method] = train(method, side=side, seeds=seeds, steps=steps)
            advance(LABELS[method])
    found = {method: measures(grid) for method, grid in grids.items()}
    plots = []
    if settings.plots:
        maps = {LABELS[method]: grid for method, grid in grids.items()}
        best = {label: best_decays(grid) for label, grid in maps.items()}
        path = settings.output / "heatmap.png"
        tall = settings.output / "heatmap-tall.png"
        figures.heatmaps(maps, best, path)
        figures.heatmaps(maps, best, tall, stacked=True)
        plots.append(Plot(path, _alternative(found), tall))
    facts = {
        method: grid._asdict() | found[method]._asdict()
        for method, grid in grids.items()
    }
    return Chapter(
        "Why decoupled: the error over learning rate and weight decay",
        _QUESTION,
        findings(found),
        _table(found, side * side),
        plots,
        {"seeds": list(seeds), "steps": steps, "methods": _plain(facts)},
    )


def measures(grid: Grid) -> Measures:
    """Measure a map: its least error, the region around it, and its direction."""
    errors = grid.errors.mean(axis=2)
    least = errors.min()
    trained = errors.min(axis=1) <= 1.5 * least
    rates = np.log10(grid.rates)[trained]
    best = np.log10(best_decays(grid))[trained]
    enough = len(rates) > 2
    varies = enough and np.ptp(best) > 1e-9
    step = float(np.log10(grid.rates[1] / grid.rates[0]))
    longest = max(_longest_run(column) for column in (errors <= 1.5 * least).T)
    return Measures(
        float(least),
        int((errors <= 1.1 * least).sum()),
        float(np.corrcoef(rates, best)[0, 1]) if varies else None,
        float(np.polyfit(rates, best, 1)[0]) if enough else None,
        float(np.ptp(best)),
        step * max(0, longest - 1),
    )


def best_decays(grid: Grid) -> np.ndarray:
    """Return the best decay of each rate: the middle of those within 10 % of its best.

    The least error alone jumps between neighbours wherever the error is flat.
    """
    errors = grid.errors.mean(axis=2)
    good = errors <= 1.1 * errors.min(axis=1, keepdims=True)
    middles = [np.log10(grid.decays)[row].mean() for row in good]
    return 10.0 ** np.array(middles)


def findings(found: dict[Method, Measures]) -> list[str]:
    """Say what the measures of this run show, and no more."""
    texts = [_direction(LABELS[name], measured) for name, measured in found.items()]
    paper, l2 = found["adamw"], found["adam_l2"]
    texts.append(
        f"Settings within 10 % of the least error of their map: {paper.near_cells} "
        f"with AdamW, {l2.near_cells} with Adam + L2. One decay stays within 50 % of "
        f"the least error over {paper.decades:.1f} powers of ten of the learning rate "
        f"with AdamW, over {l2.decades:.1f} with Adam + L2."
    )
    return texts


def _direction(label: str, measured: Measures) -> str:
    if measured.slope is None:
        return f"{label}: too few rates train to tell how the best decay changes."
    factor = 10.0 ** abs(measured.slope)
    change = "larger" if measured.slope > 0 else "smaller"
    if factor < 1.05:
        return f"{label}: the best decay is the same for ten times the rate."
    start = f"{label}: for ten times the rate the best decay is {factor:.1f} times"
    # Ten times the rate moves the best decay by at most one and a half cells of the
    # whole map, whose decays lie 10^0.36 apart.
    if abs(measured.slope) <= 0.5:
        return f"{start} {change}. Both can nearly be tuned apart."
    return f"{start} {change}. Whoever changes the rate must tune the decay again."


def _longest_run(good: np.ndarray) -> int:
    longest = current = 0
    for one in good:
        current = current + 1 if one else 0
        longest = max(longest, current)
    return longest


def _table(found: dict[Method, Measures], cells: int) -> list[list[str]]:
    rows = [
        [
            "method",
            "least test error",
            f"settings within 10 % of it, of {cells}",
            "correlation of best decay and rate",
            "ten times the rate: best decay times",
            "best decays differ by a factor of",
            "rates that one decay serves",
        ]
    ]
    for name, measured in found.items():
        sign = "-" if measured.correlation is None else f"{measured.correlation:+.2f}"
        rows.append(
            [
                LABELS[name],
                f"{measured.least_error:.2%}",
                str(measured.near_cells),
                sign,
                "-" if measured.slope is None else f"{10**measured.slope:.2g}",
                f"10^{measured.spread:.1f}",
                f"10^{measured.decades:.1f}",
            ]
        )
    return rows


def _alternative(found: dict[Method, Measures]) -> str:
    return (
        "Heatmaps of the test error over learning rate and weight decay. "
        + " ".join(
            f"{LABELS[name]}: least error {measured.least_error:.1%}."
            for name, measured in found.items()
        )
    )


def _plain(facts: dict[Method, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Turn arrays into lists, for JSON."""
    return {
        method: {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in entries.items()
        }
        for method, entries in facts.items()
    }
