"""Run `optadamw convert`: read one library's state, write another's."""

import dataclasses
import json
import re
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optadamw.base.errors import invalid
from optadamw.checkpoint.bounds import check_regular
from optadamw.checkpoint.path import check_folder
from optadamw.cli.convert.arguments import BUFFERS
from optadamw.cli.convert.table import (
    on_frozen,
    on_kernels,
    on_schedule,
    on_width,
    table,
)
from optadamw.dialects.conversion import (
    check_patterns,
    open_state,
    read_state,
    with_numbers,
    write_state,
)
from optadamw.dialects.files.files import check_writable
from optadamw.dialects.found_names import params_for, with_found_names
from optadamw.dialects.states.form import Plan
from optadamw.dialects.used_options import check_accumulates, check_used


def run(options: Namespace) -> int:
    """Convert a file from parsed arguments.

    Returns:
        0, or 1 if the state cannot be converted, or 2 if an argument is wrong; then
        nothing was written.
    """
    if options.out.exists() and not options.force:
        return _failed(f"'{options.out}' exists. Replace it with --force.", 2)
    try:
        check_folder(options.out, "--out")
        check_writable(options.out)
        plan = _plan(options)
        check_used(plan)
    except (OSError, ValueError) as error:
        return _failed(for_command(str(error)), 2)
    is_leaving = False
    try:
        params = params_for(plan, options.file, options.params)
        check_patterns(plan, params)
        opened = open_state(plan, options.file)
        # "params" beside "opt_state" is left behind, with and without --drop.
        kept = tuple(n for n in plan.drop if n in BUFFERS or n not in opened.beside)
        plan = dataclasses.replace(plan, drop=kept)
        given, plan = plan, with_numbers(plan, options.file, opened, len(params))
        places = [options.file, options.params]
        plan, ordered_by = with_found_names(plan, opened.saved, params, places)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            bare = read_state(plan, options.file, opened.saved, params)
        check_accumulates(given, bare.state)
        is_leaving = True
        write_state(plan, bare, options.out, params)
    except (OSError, ValueError, TypeError, ImportError) as error:
        return _failed(for_command(str(error), is_leaving), 1)
    notes = [for_command(str(one.message)) for one in caught]
    notes += [*on_kernels(plan, params), *on_schedule(given, plan)]
    notes += [*on_frozen(bare), *on_width(opened.saved)]
    print(table(plan, options.out, bare, opened.found_at, ordered_by, notes))
    return 0


def _plan(options: Namespace) -> Plan:
    given = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(Plan)
        if field.name not in ("names", "to_names")
    }
    for name in ("transpose", "to_transpose", "drop"):
        given[name] = tuple(given[name])
    # The names in a state of Optax and in our checkpoints are known with the file.
    is_known = options.source not in ("optax", "optadamw")
    for name in given["drop"] if is_known else ():
        if name not in BUFFERS:
            raise invalid("--drop", f"one of {', '.join(BUFFERS)}", name)
    return Plan(names=_names(options.names), to_names=_names(options.to_names), **given)


def _names(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        check_regular(path)
        found = json.loads(path.read_text())
    except OSError as error:
        if error.strerror is None:  # in our own words
            raise
        raise OSError(f"'{path}' cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{path}' is no JSON ({error}).") from error
    if not isinstance(found, list | dict):
        raise ValueError(f"'{path}' must hold a list or a mapping of names.")
    if any(isinstance(one, list | dict) for one in found):
        raise ValueError(f"'{path}' holds a list in a list. List the names themselves.")
    return found


def _failed(message: str, status: int) -> int:
    line = " ".join(message.split())
    print(f"optadamw convert: error: {line}", file=sys.stderr)
    return status


# --- Remedies of errors: options of the command in place of arguments ----------------

_NAME = r"['\"]([^'\"]+)['\"]"

_FLAGS: dict[str, str] = {
    "amsgrad": "--amsgrad",
    "use_ema": "--use-ema",
    "accumulates": "--accumulate",
}

PHRASES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"with os\.makedirs", "with mkdir -p"),
    (r"; with a `tx` that keeps a maximum also afresh=\('nu_max',\)", ""),
    (
        r"Go on with the same one, tx=adamw\(.*?\) \(or amsgrad='corrected' where "
        r"there is no `tx`\)",
        "Go on with the same one, --amsgrad corrected",
    ),
    (
        r"say which with amsgrad=, use_ema=, gradient_accumulation_steps=, or pass "
        r"`tx`",
        "say which with --amsgrad raw, --use-ema, --accumulate N",
    ),
    (
        r"`(amsgrad|use_ema|accumulates)` is (True|False|None)",
        lambda found: (
            f"{_FLAGS[found[1]]} is {'' if found[2] == 'True' else 'not '}given"
        ),
    ),
    (rf"drop=\({_NAME},?\)", r"--drop \1"),
    (r"missing='zeros'", "--missing zeros"),
    (r"pass layout=lambda path, x: x\.T, where it is", "turn it with `--transpose`"),
    (r"turn it with `layout`", "turn it with `--transpose`"),
    (
        r"Transpose it with layout=lambda path, x: x\.T if .* else x",
        "Transpose it with `--transpose '*kernel'`",
    ),
    (r"(?:Pass )?betas=\(b1, b2\)(?: or `tx`)?, or step=", "Give --b1 and --b2"),
    (r"Pass betas=\(b1, b2\) as AdamW was given them", "Give --b1 and --b2"),
    (r"Pass betas=\(b1, b2\) or `tx`", "Give --b1 and --b2"),
    (r"Pass gradient_accumulation_steps=, or `tx`", "Give it with --accumulate"),
    (
        r"Pass `tx`,? or learning_rate=(?: \(a number, or 'schedule'\))?",
        "Give it with --learning-rate",
    ),
    (r"with names=\{.*?\}\.", "with --names FILE.json."),
    (r"(?<!-)`names`", "`--names`"),
    (
        r"Pass optimizer\.state_dict\(\), or what torch\.load gives of it",
        "Say with FROM what the file holds, and with --key where in it",
    ),
    (r"as groups=\[\{\.\.\.\}\]", "in Python, as `groups`"),
)


def for_command(message: str, is_leaving: bool = False) -> str:
    """Reword a message: the command's options in place of a function's arguments.

    Args:
      message: the message of a function.
      is_leaving: whether the message is about the file that is written, for which the
        options are --to-names and --to-transpose.
    """
    for pattern, replacement in PHRASES:
        message = re.sub(pattern, replacement, message)
    if is_leaving:
        message = message.replace("--names", "--to-names")
        message = message.replace("--transpose", "--to-transpose")
    return message
