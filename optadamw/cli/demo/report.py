"""The texts that the demo prints: tables, the verdict and failures."""

from collections.abc import Sequence
from typing import Any

from optadamw.cli.demo.settings import Settings
from optadamw.cli.demo.training import Epoch, Run


def rows(scores: dict[str, dict[str, dict[str, float]]]) -> list[list[str]]:
    """Return losses and accuracies as rows, the heading first."""
    parts = next(iter(scores.values()))
    heading = ["optimizer"]
    for part in parts:
        heading += [f"{part} loss", f"{part} accuracy"]
    body = [
        [label]
        + [
            cell
            for score in by_part.values()
            for cell in (f"{score['loss']:.4f}", f"{score['accuracy']:.2%}")
        ]
        for label, by_part in scores.items()
    ]
    return [heading, *body]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned lines: the first column to the left, others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "   ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def verdict(
    comparison: dict[str, Any], first: str, second: str, total: int, labels: str
) -> str:
    """Return a text that says which of two networks is better on the test examples."""
    right, only = comparison["right"], comparison["only_right"]
    counts = (
        f"Test {labels} read right: {first} {right[0]:,}, {second} {right[1]:,} "
        f"of {total:,}."
    )
    if right[0] == right[1]:
        return f"{counts} Neither is ahead."
    ahead = first if right[0] > right[1] else second
    chance = comparison["p_value"]
    weight = "more than chance explains" if chance < 0.05 else "as chance could explain"
    return (
        f"{counts}\n{ahead} is ahead by {abs(right[0] - right[1]):,}, {weight} "
        f"({only[0]} right by {first} alone, {only[1]} by {second} alone: "
        f"sign test p = {chance:.2g})."
    )


def short(label: str, epoch: Epoch) -> str:
    """Return what the progress bar says after an epoch."""
    return (
        f"{label}: loss {epoch.training_loss:.4f}  "
        f"val acc {epoch.validation_accuracy:.1%}  "
        f"|g| {epoch.gradient_norm:.3f}  "
        f"lr {epoch.learning_rate:.1e}"
    )


def failure(label: str, run: Run, settings: Settings) -> str:
    """Return a text with the step at which a training failed, and the remedy."""
    return (
        f"{label}: the loss was not finite at step {run.failed_step} "
        f"(epoch {len(run.history)} of {settings.epochs}); its training stopped there. "
        f"Lower --learning-rate (now {settings.learning_rate:g}) "
        f"or set --clip-global-norm (now {settings.clip_global_norm or 'off'})."
    )
