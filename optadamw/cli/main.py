"""The command line, `optadamw COMMAND`: a subcommand is one line in `COMMANDS`.

A subcommand has two modules. `arguments` imports nothing heavy and holds `SUMMARY`,
`REQUIRES` and `add_arguments(parser)`. `runner` holds `run(options) -> int` and is
imported only when its command runs, so that `--help` neither waits for nor needs Flax,
scikit-learn or Matplotlib.
"""

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple, NoReturn

import jax

from optadamw.base.version import __version__
from optadamw.cli.convert import arguments as convert_arguments
from optadamw.cli.demo import arguments as demo_arguments
from optadamw.cli.dialects import arguments as dialects_arguments
from optadamw.cli.doctor import arguments as doctor_arguments
from optadamw.cli.memory import arguments as memory_arguments


class Command(NamedTuple):
    """One subcommand: its light arguments module and the module that runs it."""

    arguments: ModuleType
    runner: str


COMMANDS = {
    "demo": Command(demo_arguments, "optadamw.cli.demo.command"),
    "convert": Command(convert_arguments, "optadamw.cli.convert.command"),
    "memory": Command(memory_arguments, "optadamw.cli.memory.command"),
    "dialects": Command(dialects_arguments, "optadamw.cli.dialects.command"),
    "doctor": Command(doctor_arguments, "optadamw.cli.doctor.command"),
}


class _OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        # argparse writes "argument --epochs: must ..."; here "`--epochs` must ...".
        subject, separator, rest = message.partition(": ")
        if separator and subject.startswith("argument "):
            message = f"`{subject.removeprefix('argument ')}` {rest}"
        advice = "" if message.endswith(".") else f". See `{self.prog} --help`."
        self.exit(2, f"{self.prog}: error: {message}{advice}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        argv: The arguments after the program's name; `sys.argv[1:]` if None.

    Returns:
        0 when the command did its work, 1 when it failed, 2 for bad arguments,
        130 when interrupted from the keyboard, 141 when the output was closed.
    """
    try:
        options = _parse(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    return _run(options.command, options)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _OneLineParser(
        prog="optadamw",
        description="AdamW for JAX, from the command line.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "-V", "--version", action="version", version=f"optadamw {__version__}"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(
            name,
            help=command.arguments.SUMMARY,
            description=command.arguments.SUMMARY,
            allow_abbrev=False,
        )
        command.arguments.add_arguments(subparser)
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        chosen = commands.choices.get(options.command, parser)
        chosen.error(f"unknown arguments: {' '.join(unknown)}")
    if options.command is None:
        parser.print_help(sys.stderr)
        parser.exit(2)
    return options


def _run(name: str, options: argparse.Namespace) -> int:
    command = COMMANDS[name]
    missing = [
        package
        for module, package in command.arguments.REQUIRES.items()
        if importlib.util.find_spec(module) is None
    ]
    if missing:
        print(
            f"optadamw {name}: error: not installed: {', '.join(missing)}. "
            f"Install the packages with: pip install 'optadamw[{name}]'",
            file=sys.stderr,
        )
        return 1
    try:
        return importlib.import_module(command.runner).run(options)
    except KeyboardInterrupt:
        print(f"\noptadamw {name}: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough. Python would complain again when
        # it flushes the output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        where = f"'{error.filename}': " if error.filename else ""
        return _failed(name, f"{where}{error.strerror or error}")
    except Exception:
        trouble = _without_device() or _odd_switch()
        if trouble is None:
            raise
        return _failed(name, trouble)


def _failed(name: str, message: str) -> int:
    text = " ".join(message.split())
    print(f"optadamw {name}: error: {text}", file=sys.stderr)
    return 1


def _without_device() -> str | None:
    """Return why JAX finds no device; None if it finds one.

    JAX raises a RuntimeError, or, for JAX_PLATFORMS=cuda without the plugin, an
    AssertionError without a message.
    """
    try:
        jax.devices()
    except Exception as error:
        platforms = os.environ.get("JAX_PLATFORMS")
        asked = "" if platforms is None else f", with JAX_PLATFORMS={platforms}"
        said = f": {error}" if str(error) else ""
        return f"JAX finds no device{asked}{said}. `optadamw doctor` shows more."
    return None


def _odd_switch() -> str | None:
    """Return why the variable that switches kernels on and off is refused, if it is."""
    kernel = importlib.import_module("optadamw.native.kernel")
    try:
        kernel.kernels_switch()
    except ValueError as error:
        return str(error)
    return None
