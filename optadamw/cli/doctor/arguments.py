"""The arguments of `optadamw doctor`; imports nothing heavy, so `--help` is quick."""

import argparse

SUMMARY = "Print versions, devices, and which fast paths are on, for a bug report."
REQUIRES: dict[str, str] = {}
"""Modules that the command needs beyond the library's own, and their packages."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of text"
    )
