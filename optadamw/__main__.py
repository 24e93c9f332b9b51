"""Run the command line as `python -m optadamw`."""

import sys

from optadamw.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
