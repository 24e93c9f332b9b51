"""`optadamw dialects [NAME]`."""

import argparse
import sys
from difflib import get_close_matches

from optadamw.dialects.catalogue import CALLS
from optadamw.dialects.page import page, shown


def run(options: argparse.Namespace) -> int:
    """Print one peer's call, or all; return 2 for an unknown name."""
    if options.name is not None and options.name not in CALLS:
        name = options.name.lower()
        inside = [call for call in CALLS if call in name]  # "torch" is in "pytorch"
        nearest = inside or get_close_matches(name, CALLS, n=2, cutoff=0.0)
        print(
            f"optadamw dialects: error: `name` must be one of {', '.join(CALLS)}; got "
            f"{options.name!r}. Near it: {', '.join(map(repr, nearest))}.",
            file=sys.stderr,
        )
        return 2
    calls = CALLS if options.name is None else {options.name: CALLS[options.name]}
    if options.markdown:
        print(page(calls))
        return 0
    print("\n\n".join(shown(call) for call in calls.values()))
    return 0
