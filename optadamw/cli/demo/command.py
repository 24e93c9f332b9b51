"""Run `optadamw demo`: train twice, compare, draw, and write the summary."""

import dataclasses
import json
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import optax

import optadamw
from optadamw import plotting
from optadamw.cli.demo import data, evaluation, report, summary
from optadamw.cli.demo.model import initial_network
from optadamw.cli.demo.optimizers import COMPARED, steps_per_epoch
from optadamw.cli.demo.progress import Progress
from optadamw.cli.demo.settings import (
    TEST_IMAGES,
    TRAINING_IMAGES,
    VALIDATION_IMAGES,
    Settings,
)
from optadamw.cli.demo.training import Run, train

LABELS = {name: label for name, (label, _) in COMPARED.items()} | {
    "adamw_averaged": "AdamW, averaged"
}


def run(options: Namespace) -> int:
    """Run the demo from parsed arguments.

    Returns:
        0, or 1 if a training met a loss that is not finite.
    """
    start = time.perf_counter()
    names = (field.name for field in dataclasses.fields(Settings))
    settings = Settings(**{name: getattr(options, name) for name in names})
    settings.output.mkdir(parents=True, exist_ok=True)
    splits = data.load()
    graph, params = initial_network(settings.seed)
    if not settings.quiet:
        print(_opening(params, settings), flush=True)
    runs = {
        name: _train(label, make(settings), splits, settings)
        for name, (label, make) in COMPARED.items()
    }

    networks = {name: run.params for name, run in runs.items()}
    if settings.ema_decay is not None:
        networks["adamw_averaged"] = optadamw.ema_of(runs["adamw"].state)
    final = {
        name: evaluation.scores(graph, network, splits)
        for name, network in networks.items()
    }
    comparison = evaluation.compare(
        graph, networks["adamw"], networks["adam_l2"], splits
    )
    failed = [name for name, run in runs.items() if run.failed_step is not None]
    print(report.table({LABELS[name]: scores for name, scores in final.items()}))
    for name in failed:
        print(report.failure(LABELS[name], runs[name], settings), file=sys.stderr)
    if not failed:
        print(report.verdict(comparison, LABELS["adamw"], LABELS["adam_l2"]))

    written = _draw(runs, settings) if settings.plots else []
    contents = summary.whole(
        settings,
        params,
        final=final,
        comparison=comparison,
        runs={name: summary.of_run(run) for name, run in runs.items()},
        seconds=time.perf_counter() - start,
    )
    written.append(settings.output / "summary.json")
    written[-1].write_text(json.dumps(contents, indent=2, allow_nan=False) + "\n")
    print("Written: " + ", ".join(map(str, written)))
    return 1 if failed else 0


def _opening(params: Any, settings: Settings) -> str:
    return (
        f"Digits: {TRAINING_IMAGES} images to train with, {VALIDATION_IMAGES} to "
        f"validate, {TEST_IMAGES} to test. {summary.size(params):,} parameters, "
        f"{settings.epochs} x {steps_per_epoch(settings)} steps."
    )


def _train(
    label: str,
    tx: optax.GradientTransformation,
    splits: data.Splits,
    settings: Settings,
) -> Run:
    if settings.quiet:
        return train(tx, splits, settings)
    with Progress(label, settings.epochs, sys.stdout) as progress:
        return train(tx, splits, settings, progress.update)


def _draw(runs: dict[str, Run], settings: Settings) -> list[Path]:
    histories = {LABELS[name]: summary.records(run) for name, run in runs.items()}
    ratios = settings.output / "update_to_weight.png"
    return [
        plotting.curves(histories, settings.output / "curves.png"),
        plotting.update_to_weight(histories, ratios),
    ]
