"""Command line of `optadamw dialects`; nothing here imports a door."""

import argparse

SUMMARY = "Show how each peer's AdamW is spoken here."
REQUIRES: dict[str, str] = {}
"""Modules that the command needs beyond the library's own, and their packages."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "name", nargs="?", help="one of them, such as torch; all of them without it"
    )
    parser.add_argument(
        "--markdown",
        action="store_true",
        help="print the tables of docs/dialects.md",
    )
