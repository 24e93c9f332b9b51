"""Command line of `optadamw dialects`; nothing here imports a dialect."""

import argparse

SUMMARY = "Show the calls of other libraries' AdamW and their arguments."
REQUIRES: dict[str, str] = {}
"""Modules that the command needs beyond the library's own, and their packages."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "name", nargs="?", help="a peer, such as torch (default: all of them)"
    )
    parser.add_argument(
        "--markdown",
        action="store_true",
        help="print the tables of docs/reference/dialects.md",
    )
