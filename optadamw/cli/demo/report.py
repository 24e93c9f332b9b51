"""The texts that the demo prints at its end: a table and a verdict."""

from typing import Any

from optadamw.cli.demo.settings import TEST_IMAGES, Settings
from optadamw.cli.demo.training import Run


def table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return the scores as a table, one line for each optimizer."""
    width = max(map(len, rows))
    parts = next(iter(rows.values()))
    lines = [
        " " * width + "".join(f"   {part:>18}" for part in parts),
        " " * width + f"   {'loss':>8} {'accuracy':>9}" * len(parts),
    ]
    for label, by_part in rows.items():
        cells = (
            f"   {score['loss']:8.4f} {score['accuracy']:9.2%}"
            for score in by_part.values()
        )
        lines.append(f"{label:<{width}}" + "".join(cells))
    return "\n".join(lines)


def verdict(comparison: dict[str, Any], first: str, second: str) -> str:
    """Return a text that says which of two networks is better on the test images."""
    right, only = comparison["right"], comparison["only_right"]
    counts = (
        f"Test images read right: {first} {right[0]}, {second} {right[1]} "
        f"of {TEST_IMAGES}."
    )
    if right[0] == right[1]:
        return f"{counts} Neither is ahead."
    ahead = first if right[0] > right[1] else second
    chance = comparison["p_value"]
    weight = "more than chance explains" if chance < 0.05 else "as chance could explain"
    return (
        f"{counts}\n{ahead} is ahead by {abs(right[0] - right[1])}, {weight} "
        f"({only[0]} right by {first} alone, {only[1]} by {second} alone: "
        f"sign test p = {chance:.2g})."
    )


def failure(label: str, run: Run, settings: Settings) -> str:
    """Return a text with the step at which a training failed, and the remedy."""
    return (
        f"{label}: the loss was not finite at step {run.failed_step} "
        f"(epoch {len(run.history)} of {settings.epochs}); its training stopped there. "
        f"Lower --learning-rate (now {settings.learning_rate:g}) "
        f"or set --clip-global-norm (now {settings.clip_global_norm or 'off'})."
    )
