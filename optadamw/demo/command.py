"""Run `optadamw demo`: train twice, compare, draw, and write the summary."""

import dataclasses
import json
import sys
import time
from argparse import Namespace
from typing import Any

import optax

import optadamw
from optadamw import plotting
from optadamw.demo import data, report
from optadamw.demo.model import initial_network
from optadamw.demo.optimizers import COMPARED, steps_per_epoch
from optadamw.demo.progress import Progress
from optadamw.demo.settings import (
    TEST_IMAGES,
    TRAINING_IMAGES,
    VALIDATION_IMAGES,
    Settings,
)
from optadamw.demo.training import Run, train


def run(options: Namespace) -> int:
    """Run the demo from parsed arguments.

    Returns:
        0, or 1 if a training met a loss that is not finite.
    """
    names = (field.name for field in dataclasses.fields(Settings))
    settings = Settings(**{name: getattr(options, name) for name in names})
    settings.output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    splits = data.load()
    graph, params = initial_network(settings.seed)
    if not settings.quiet:
        print(_opening(params, settings), flush=True)

    labels = {name: label for name, (label, _) in COMPARED.items()}
    runs = {
        name: _train(label, make(settings), splits, settings)
        for name, (label, make) in COMPARED.items()
    }
    final = {name: report.scores(graph, runs[name].params, splits) for name in runs}
    rows = {labels[name]: final[name] for name in runs}
    averaged = None
    if settings.ema_decay is not None:
        average = optadamw.ema_of(runs["adamw"].state)
        averaged = report.scores(graph, average, splits)
        rows["AdamW, averaged"] = averaged
    print(report.table(rows))

    failed = [name for name in runs if runs[name].failed_step is not None]
    comparison = report.compare(graph, *(runs[name].params for name in runs), splits)
    if not failed:
        print(report.verdict(comparison, *labels.values()))
    for name in failed:
        print(report.failure(labels[name], runs[name], settings), file=sys.stderr)

    written = [settings.output / "summary.json"]
    if settings.plots:
        histories = {labels[name]: report.records(runs[name]) for name in runs}
        written += [
            plotting.curves(histories, settings.output / "curves.png"),
            plotting.update_to_weight(
                histories, settings.output / "update_to_weight.png"
            ),
        ]
    summary = report.summary(
        settings,
        params,
        runs={name: report.run_summary(runs[name], final[name]) for name in runs},
        averaged=averaged,
        comparison=comparison,
        seconds=time.perf_counter() - start,
    )
    written[0].write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    print("Written: " + ", ".join(map(str, written)))
    return 1 if failed else 0


def _opening(params: Any, settings: Settings) -> str:
    return (
        f"Digits: {TRAINING_IMAGES} images to train with, {VALIDATION_IMAGES} to "
        f"validate, {TEST_IMAGES} to test. {report.size(params):,} parameters, "
        f"{settings.epochs} epochs of {steps_per_epoch(settings)} steps."
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
