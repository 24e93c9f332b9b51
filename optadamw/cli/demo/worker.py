"""A process of the faults part: trains, saves each epoch, and dies if it is told to.

    python -m optadamw.cli.demo.worker FOLDER SETTINGS [EPOCH]

SETTINGS are those of the demo as JSON. In EPOCH the process kills itself, after the
training of the epoch and before it is saved. Without EPOCH it trains to the end, from
the checkpoint in FOLDER if there is one, and prints a digest of parameters and state.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from optadamw import checkpoint
from optadamw.cli.demo import summary
from optadamw.cli.demo.faults import KILL, fault_step, guarded
from optadamw.cli.demo.settings import Settings
from optadamw.cli.demo.tasks import TASKS
from optadamw.cli.demo.training import Place, epochs, start


def main(folder: str, contents: str, die_in: str | None = None) -> None:
    """Train from the checkpoint in `folder`, if any; die in epoch `die_in`, if any."""
    arguments: dict[str, Any] = json.loads(contents)
    settings = Settings(**arguments | {"output": Path(arguments["output"])})
    task = TASKS[settings.model]
    tx = guarded(settings)
    first = start(tx, task, settings)
    path = Path(folder, "checkpoint.npz")
    if path.exists():
        saved = checkpoint.load(path)
        params = checkpoint.params_of(saved, first.params)
        state, _ = checkpoint.restore(tx, params, saved)
        done = int(Path(folder, "epoch").read_text())
        first = Place(params, state, done)
    place = first
    splits, fault_at = task.load(), fault_step(settings)
    for place, _, _ in epochs(tx, task, splits, settings, first, fault_at):
        if die_in is not None and place.epoch >= int(die_in):
            os.kill(os.getpid(), KILL)
        checkpoint.save(path, tx, place.state, place.params)
        Path(folder, "epoch").write_text(str(place.epoch))
    print(summary.digest((place.params, place.state)))


if __name__ == "__main__":
    main(*sys.argv[1:])
