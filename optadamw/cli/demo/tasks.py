"""The tasks of `--model`, by name."""

from optadamw.cli.demo.digits import DIGITS
from optadamw.cli.demo.text import TEXT

TASKS = {"digits": DIGITS, "transformer": TEXT}
