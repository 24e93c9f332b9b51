"""One training each: AdamW and Adam + L2 on the whole task, with a verdict."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import optadamw
from optadamw import plotting
from optadamw.cli.demo import evaluation, report, summary
from optadamw.cli.demo.chapter import Chapter, Plot
from optadamw.cli.demo.optimizers import COMPARED, steps_per_epoch
from optadamw.cli.demo.progress import Progress
from optadamw.cli.demo.settings import Settings
from optadamw.cli.demo.task import Task
from optadamw.cli.demo.tasks import TASKS
from optadamw.cli.demo.training import Epoch, Run, train

LABELS = {name: label for name, (label, _) in COMPARED.items()} | {
    "adamw_averaged": "AdamW, averaged"
}

_CURVES = (
    "training_loss",
    "validation_loss",
    "training_accuracy",
    "validation_accuracy",
    "gradient_norm",
    "learning_rate",
)
_TITLES = {
    "loss": "Loss (cross-entropy, nats)",
    "gradient_norm": "Gradient norm (mean of the epoch)",
}


def run(settings: Settings, progress: Progress) -> Chapter:
    """Train both optimizers and compare them on the test examples."""
    task = TASKS[settings.model]
    splits = task.load()
    runs = {}
    with progress.task(
        "Training", len(COMPARED) * settings.epochs, "epochs"
    ) as advance:
        for name, (label, make) in COMPARED.items():
            told = partial(_advance, advance, label)
            runs[name] = train(make(settings), task, splits, settings, told)
    networks = {name: run.params for name, run in runs.items()}
    if settings.ema_decay is not None:
        networks["adamw_averaged"] = optadamw.ema_of(runs["adamw"].state)
    final = {
        name: evaluation.scores(task, network, splits)
        for name, network in networks.items()
    }
    comparison = evaluation.compare(
        task, networks["adamw"], networks["adam_l2"], splits
    )
    failed = [name for name, run in runs.items() if run.failed_step is not None]
    failures = [report.failure(LABELS[name], runs[name], settings) for name in failed]
    size = summary.size(networks["adamw"])
    facts = {
        "parameters": size,
        "final": final,
        "comparison": comparison,
        "runs": {name: summary.of_run(run) for name, run in runs.items()},
    }
    total = splits.test.labels.size
    words = report.verdict(
        comparison, LABELS["adamw"], LABELS["adam_l2"], total, task.labels
    )
    return Chapter(
        f"A whole training: {task.title.lower()}",
        _question(task, settings, size),
        [] if failed else words.splitlines(),
        report.rows({LABELS[name]: scores for name, scores in final.items()}),
        _draw(runs, settings) if settings.plots else [],
        facts,
        failures,
    )


def _advance(advance: Callable[[str], None], label: str, epoch: Epoch) -> None:
    advance(report.short(label, epoch))


def _question(task: Task, settings: Settings, size: int) -> str:
    return (
        f"A network of {size:,} parameters is trained for {settings.epochs} x "
        f"{steps_per_epoch(settings)} steps on {task.examples}, once with AdamW and "
        "once with Adam + L2, with the same warm-up and cosine. This task is too easy "
        "for weight decay to matter much: the plots show a healthy training rather "
        "than a winner. The ratio of update to weight tells whether the learning rate "
        "suits every layer."
    )


def _draw(runs: dict[str, Run], settings: Settings) -> list[Plot]:
    histories: dict[str, Any] = {
        LABELS[name]: summary.records(run) for name, run in runs.items()
    }
    curves = partial(plotting.curves, fields=_CURVES, titles=_TITLES)

    def drawn(draw: Callable[..., Path], name: str, text: str) -> Plot:
        wide = draw(histories, settings.output / f"{name}.png")
        tall = draw(histories, settings.output / f"{name}-tall.png", columns=1)
        return Plot(wide, text, tall)

    return [
        drawn(
            curves,
            "curves",
            "Loss, accuracy, gradient norm and learning rate by epoch.",
        ),
        drawn(
            plotting.update_to_weight,
            "update_to_weight",
            "Length of the update relative to the weights, by layer and epoch.",
        ),
    ]
