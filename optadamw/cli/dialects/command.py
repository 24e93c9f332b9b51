"""`optadamw dialects [NAME]`."""

import argparse
import sys
from difflib import get_close_matches

from optadamw.dialects.catalogue import CALLS
from optadamw.dialects.page import page, shown


def run(options: argparse.Namespace) -> int:
    """Print one peer's call, or all; return 2 for an unknown name."""
    chosen = options.name
    if chosen is not None and chosen not in CALLS:
        chosen = chosen.replace("-", "_")  # as `optadamw convert` writes it
    if chosen is not None and chosen not in CALLS:
        name = options.name.lower()
        inside = [call for call in CALLS if call in name]  # "torch" is in "pytorch"
        nearest = inside or get_close_matches(name, CALLS, n=2, cutoff=0.0)
        print(
            f"optadamw dialects: error: `name` must be one of {', '.join(CALLS)}; got "
            f"{options.name!r}. Near it: {', '.join(map(repr, nearest))}.",
            file=sys.stderr,
        )
        return 2
    calls = CALLS if chosen is None else {chosen: CALLS[chosen]}
    if options.markdown:
        print(page(calls))
        return 0
    print("\n\n".join(shown(call) for call in calls.values()))
    return 0
