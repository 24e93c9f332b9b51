"""Faults: a NaN in a gradient, and a process that is killed and continued."""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import optax

import optadamw
from optadamw.cli.demo import figures, summary
from optadamw.cli.demo.chapter import Chapter, Plot
from optadamw.cli.demo.optimizers import kernels, schedule, steps_per_epoch
from optadamw.cli.demo.progress import Progress
from optadamw.cli.demo.settings import Settings
from optadamw.cli.demo.task import Splits, Task
from optadamw.cli.demo.tasks import TASKS
from optadamw.cli.demo.training import Epoch, Place, epochs, start

OPTAX, GUARDED = "optax.adamw", "optadamw.adamw(skip_nonfinite=True)"

# Windows has no SIGKILL; its os.kill ends a process at once as well, and the status of
# that process is the number of the signal, not its negative.
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
KILLED_STATUS = int(KILL) if os.name == "nt" else -int(KILL)

_QUESTION = (
    "Two trainings see the same batches, one with optax.adamw, one with a guard, a "
    "clip and an average. Halfway, one element of one gradient becomes NaN in both. "
    "Then the guarded training runs once more in a process of its own, which is killed "
    "in the middle of an epoch. A new process continues it from its last checkpoint."
)


def guarded(settings: Settings) -> optadamw.Transformation:
    """Return the AdamW of this part: guarded, clipped, averaged and counted."""
    return optadamw.adamw(
        schedule(settings),
        weight_decay=settings.weight_decay,
        mask="*/kernel",
        clip_global_norm=1.0,
        ema_decay=0.99,
        skip_nonfinite=True,
        stats=True,
    )


def fault_step(settings: Settings) -> int:
    """Return the step whose gradient has the NaN: halfway."""
    return settings.epochs * steps_per_epoch(settings) // 2


def saved_epochs(epochs: int) -> int:
    """Return after how many saved epochs the worker dies: a third, and not the last."""
    return min(max(1, epochs // 3), epochs - 1)


def run(settings: Settings, progress: Progress) -> Chapter:
    """Put a NaN into two trainings, kill a third, and compare."""
    task = TASKS[settings.model]
    splits = task.load()
    plain = optax.adamw(
        schedule(settings), weight_decay=settings.weight_decay, mask=kernels
    )
    with progress.task("Faults", 2 * settings.epochs + 2, "epochs") as advance:
        _, lost = _with_fault(plain, task, splits, settings, lambda: advance(OPTAX))
        kept, survived = _with_fault(
            guarded(settings), task, splits, settings, lambda: advance(GUARDED)
        )
        digest = summary.digest((kept.params, kept.state))
        killed_at = saved_epochs(settings.epochs)
        with tempfile.TemporaryDirectory() as folder:
            killed = _worker(settings, folder, die_in=killed_at + 1)
            advance("killed")
            continued = _worker(settings, folder)
            advance("continued")
    stats = optadamw.stats_of(kept.state)
    outcome = {
        "fault_step": fault_step(settings),
        "skipped": int(np.asarray(stats.skipped)),
        "optax_lost": not math.isfinite(lost[-1].validation_loss),
        "validation_loss": survived[-1].validation_loss,
        "killed_status": killed.returncode,
        "saved_epochs": killed_at,
        "digest": digest,
        "continued_digest": _digest_of(continued),
    }
    plots = []
    if settings.plots:
        path = settings.output / "faults.png"
        histories = {
            OPTAX: [epoch._asdict() for epoch in lost],
            GUARDED: [epoch._asdict() for epoch in survived],
        }
        at = fault_step(settings) / steps_per_epoch(settings)
        plots.append(
            Plot(
                figures.losses(histories, path, mark=(at, "NaN in one gradient")),
                "Validation loss by epoch; after the NaN only the guarded one goes on.",
            )
        )
    return Chapter(
        "Faults survived",
        _QUESTION,
        findings(outcome, settings.epochs),
        [],
        plots,
        outcome
        | {
            "history": {
                "optax": [epoch._asdict() for epoch in lost],
                "guarded": [epoch._asdict() for epoch in survived],
            }
        },
        failures(outcome, killed.stderr, continued.stderr),
    )


def was_killed(outcome: dict[str, Any]) -> bool:
    """Return whether the first worker died of its own signal, and of nothing else."""
    return bool(outcome["killed_status"] == KILLED_STATUS)


def failures(outcome: dict[str, Any], killed: str, continued: str) -> list[str]:
    """Return what went wrong, with the ends of the standard errors of both workers."""
    found = []
    if not was_killed(outcome):
        found.append(
            "The process that was to be killed ended with the status "
            f"{outcome['killed_status']} instead. " + killed.strip()[-500:]
        )
    if outcome["digest"] != outcome["continued_digest"]:
        found.append(
            "The continued training did not end in the bits of the uninterrupted one. "
            + continued.strip()[-500:]
        )
    return found


def findings(outcome: dict[str, Any], epochs: int) -> list[str]:
    """Say what became of the three trainings."""
    lost = (
        "has no finite loss from there on"
        if outcome["optax_lost"]
        else ("went on with a finite loss")
    )
    same = outcome["digest"] == outcome["continued_digest"]
    return [
        f"At step {outcome['fault_step']} a gradient has a NaN. optax.adamw {lost}. "
        f"The guarded training skipped {outcome['skipped']} step and ended with a "
        f"validation loss of {outcome['validation_loss']:.4f}.",
        _interruption(outcome, epochs)
        + (
            "Parameters and state ended in the same bits as without interruption "
            f"(SHA-256 {outcome['digest'][:12]}...)."
            if same
            else "Parameters and state did NOT end in the same bits."
        ),
    ]


def _interruption(outcome: dict[str, Any], epochs: int) -> str:
    if not was_killed(outcome):
        return "The process that was to be killed was NOT. "
    saved = outcome["saved_epochs"]
    text = f"The process was killed in epoch {saved + 1} of {epochs} and "
    if not saved:
        return f"{text}started again, since nothing was saved yet. "
    return f"{text}continued from the checkpoint of epoch {saved}. "


def _with_fault(
    tx: optax.GradientTransformation,
    task: Task,
    splits: Splits,
    settings: Settings,
    advance: Callable[[], object],
) -> tuple[Place, list[Epoch]]:
    first = place = start(tx, task, settings)
    at, history = fault_step(settings), []
    for place, epoch, _ in epochs(tx, task, splits, settings, first, at):  # noqa: B007
        history.append(epoch)
        advance()
    return place, history


def _worker(
    settings: Settings, folder: str, die_in: int | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "optadamw.cli.demo.worker", folder]
    command.append(json.dumps(settings.plain()))
    if die_in is not None:
        command.append(str(die_in))
    return subprocess.run(command, capture_output=True, text=True)


def _digest_of(process: subprocess.CompletedProcess[str]) -> str | None:
    lines = process.stdout.split()
    return lines[-1] if process.returncode == 0 and lines else None
