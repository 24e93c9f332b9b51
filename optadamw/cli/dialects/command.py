"""`optadamw dialects [NAME]`."""

import argparse
import sys

from optadamw.base.errors import near
from optadamw.dialects.catalogue import DOORS
from optadamw.dialects.page import page, shown


def run(options: argparse.Namespace) -> int:
    """Print one door, or all; 2 for a name that is none."""
    if options.name is not None and options.name not in DOORS:
        print(
            f"optadamw dialects: error: `name` must be one of {', '.join(DOORS)}; got "
            f"{options.name!r}. Near it: {near(options.name, DOORS)}.",
            file=sys.stderr,
        )
        return 2
    doors = DOORS if options.name is None else {options.name: DOORS[options.name]}
    if options.markdown:
        print(page(doors))
        return 0
    print("\n\n".join(shown(door) for door in doors.values()))
    return 0
