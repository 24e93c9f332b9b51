"""Run the rows of a peer, in the row's dtype and in float64, and write the file."""

import argparse
import datetime
import importlib.metadata
import json
import platform
from collections.abc import Callable

import numpy as np

from tests.peers.feed import checked_calls
from tests.peers.recording import FOLDER, Run
from tests.peers.rows import ROWS, Row
from tests.peers.streams import flatten

Runner = Callable[[Row, bool], Run]  # (row, double) -> run


def versions(*packages: str) -> dict[str, str]:
    """Return the installed version of each package."""
    return {package: importlib.metadata.version(package) for package in packages}


def keep(
    peer: str, packages: dict[str, str], run: Runner, transcription: bool = False
) -> None:
    """Record every row of `peer`; a run in float64 that raises is left out and said."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="*", help="only print how these rows end")
    chosen = parser.parse_args().rows
    arrays, entries = {}, {}
    for name, row in ROWS[peer].items():
        if chosen and name not in chosen:
            continue
        single = run(row, False)
        arrays[f"{name}/params"] = np.stack([flatten(tree) for tree in single.params])
        for buffer, tree in single.final.items():
            arrays[f"{name}/final/{buffer}"] = flatten(tree)
        entry = {"row": repr(row), "dtype": row.dtype, "scalars": dict(single.scalars)}
        if row.dtype != "bfloat16":
            double = _double(run, row, entry)
            if double is not None:
                arrays[f"{name}/params64"] = double
        entries[name] = entry
        print(f"{peer:16} {name:36}", arrays[f"{name}/params"][-1, -2:], flush=True)
    description = {
        "peer": peer,
        "versions": packages,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "date": datetime.date.today().isoformat(),
        "transcription": transcription,
        "units": "parameters and moments as the peer holds them, no unit",
        "rows": entries,
    }
    description["same"] = _drop_repeated(arrays)
    arrays["metadata"] = np.array(json.dumps(description, indent=1))
    if not chosen:
        np.savez_compressed(FOLDER / f"{peer}.npz", **arrays)


def _drop_repeated(arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """Remove what is there already bit for bit; return {removed key: kept key}."""
    first: dict[tuple, str] = {}
    same = {}
    for key, array in list(arrays.items()):
        content = (str(array.dtype), array.shape, array.tobytes())
        if first.setdefault(content, key) != key:
            same[key] = first[content]
            del arrays[key]
    return same


def _double(run: Runner, row: Row, entry: dict) -> np.ndarray | None:
    try:
        params = run(row, True).params
    except Exception as error:  # any of the peer's own: the reason is recorded
        entry["no_float64"] = f"{type(error).__name__}: {error}"[:300]
        print("   no float64 run:", entry["no_float64"])
        return None
    flat = np.stack([flatten(params[call]) for call in checked_calls(row.calls)])
    if flat.dtype not in (np.float64, np.complex128):
        entry["no_float64"] = f"the parameters became {flat.dtype}"
        return None
    return flat
