"""The demo's command-line arguments; imports nothing heavy, so `--help` is quick."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from optadamw.cli.demo.settings import (
    EPOCHS,
    MODELS,
    PARTS,
    QUICK_EPOCHS,
    TRAINING_SIZE,
    Settings,
)

SUMMARY = (
    "Show AdamW on real data: the paper's heatmaps, bfloat16 that trains, faults "
    "survived and a whole training; write a report."
)
# Module that the command imports -> package that provides it.
REQUIRES = {
    "flax": "flax",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "rich": "rich",
}

# Field of `Settings` -> type, interval (a round bracket excludes the end), an example
# for the error message, and the help text.
_NUMBERS = {
    "epochs": (int, "[1, 10000]", "40", "passes over the training examples"),
    "seed": (int, f"[0, {2**32 - 1}]", "0", "same seed and machine: same bits"),
    "batch_size": (int, f"[1, {TRAINING_SIZE}]", "64", "examples per step"),
    "learning_rate": (float, "[1e-30, 1e30]", "0.003", "peak of warm-up and cosine"),
    "weight_decay": (float, "[0, 1e30]", "0.1", "AdamW's decay of the kernels"),
    "l2": (float, "[0, 1e30]", "0.001", "decay in the compared Adam's gradient"),
    "clip_global_norm": (
        float,
        "[1e-30, 1e30]",
        "1.0",
        "largest gradient norm",
    ),
    "ema_decay": (float, "[0, 1)", "0.99", "also average AdamW's parameters"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one argument for each field of `Settings`."""
    defaults = Settings()
    parser.add_argument(
        "--only",
        choices=PARTS,
        default=defaults.only,
        help="run one part of the demo (default: all)",
    )
    parser.add_argument(
        "--model",
        choices=MODELS,
        default=defaults.model,
        help="what is trained: a network on handwritten digits, or a small decoder on "
        "text that Python brings; the heatmap is always of the digits (default: "
        f"{defaults.model})",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"a coarse heatmap and {QUICK_EPOCHS} epochs, to see that all works",
    )
    for name, (kind, interval, example, text) in _NUMBERS.items():
        flag = "--" + name.replace("_", "-")
        default = getattr(defaults, name)
        told = "off" if default is None else f"{default}"
        if name == "epochs":
            # None: the default depends on --quick.
            default, told = None, f"{EPOCHS}, with --quick {QUICK_EPOCHS}"
        parser.add_argument(
            flag,
            type=_number(kind, interval, f"{flag} {example}"),
            default=default,
            metavar="N" if kind is int else "X",
            help=f"{text} (default: {told})",
        )
    parser.add_argument(
        "--output",
        type=_folder,
        default=defaults.output,
        metavar="DIR",
        help=f"folder for report, plots and summary (default: {defaults.output})",
    )
    parser.add_argument(
        "--no-plots",
        dest="plots",
        action="store_false",
        help="write the summary alone, no plots and no report",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="hide the progress, print the result"
    )


def _number(
    kind: type[int] | type[float], interval: str, example: str
) -> Callable[[str], int | float]:
    low, high = (float(end) for end in interval[1:-1].split(","))
    rule = f"{'an integer' if kind is int else 'a number'} in {interval}"

    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        inside = low <= value <= high
        on_open_end = (value == low and interval[0] == "(") or (
            value == high and interval[-1] == ")"
        )
        if not inside or on_open_end:
            raise argparse.ArgumentTypeError(
                f"must be {rule}; got {text!r}. Example: {example}."
            )
        return value

    return parse


def _folder(text: str) -> Path:
    """Return a folder's path; refuse it now rather than after the training."""
    folder = Path(text)
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not text:
        reason = "the name is empty"
    elif not nearest.is_dir():
        reason = f"{nearest} is a file"
    elif not os.access(nearest, os.W_OK | os.X_OK):
        reason = f"{nearest} is read-only"
    else:
        return folder
    raise argparse.ArgumentTypeError(
        f"must be a folder that can be written; got {text!r} ({reason}). "
        f"Example: --output {Settings.output}."
    )
