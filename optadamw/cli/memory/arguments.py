"""The arguments of `optadamw memory`; imports nothing heavy, so `--help` is quick."""

import argparse

SUMMARY = "Print the memory that a training takes with each preset."
REQUIRES: dict[str, str] = {}
"""Modules that the command needs beyond the library's own, and their packages."""

PLANS = ("full", "mixed", "stochastic", "8-bit", "compact")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--params",
        type=_count,
        required=True,
        metavar="N",
        help="parameters of the model, such as 7e9, 7B or 125M",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--devices",
        type=_devices,
        default=1,
        metavar="N",
        help="devices over which parameters and state are divided (default: 1)",
    )
    where.add_argument(
        "--topology",
        metavar="NAME",
        help="compile for such devices, which need not be here, and show the "
        "temporaries that XLA takes on them: v5e:1x1, v5e:16x16, h100:1x1x8 ... "
        "(needs optadamw[aot-tpu] or optadamw[aot-gpu])",
    )
    parser.add_argument(
        "--plan",
        nargs="+",
        choices=PLANS,
        default=list(PLANS),
        metavar="NAME",
        help=f"which of {', '.join(PLANS)} (default: all)",
    )
    parser.add_argument("--ema", action="store_true", help="with a running average")
    parser.add_argument(
        "--accumulate", action="store_true", help="with an accumulator of gradients"
    )
    parser.add_argument(
        "--no-temporaries",
        dest="temporaries",
        action="store_false",
        help="leave out XLA's temporaries; to know them each step is compiled, which "
        "takes seconds",
    )


_UNITS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def _count(text: str) -> float:
    unit = _UNITS.get(text[-1:].upper())
    try:
        number = float(text if unit is None else text[:-1]) * (unit or 1.0)
    except ValueError:
        number = 0.0
    if not 1e5 <= number <= 1e13:
        raise argparse.ArgumentTypeError(
            f"must be a number from 1e5 to 1e13; got {text!r}. Example: --params 7B."
        )
    return number


def _devices(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if not 1 <= number <= 1_000_000:
        raise argparse.ArgumentTypeError(f"must be from 1 to 1e6; got {text}.")
    return number
