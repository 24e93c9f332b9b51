"""R4: every call beside its installed peer, on configurations drawn at random.

    python -m tests.peers.live [peer ...] [--configs 200] [--steps 20] [--seed 0]

Hyperparameters over wide ranges, trees of random shapes, gradients over seven decades,
float32; the peer runs in the loops of `record/`, our call in those of `calls`, and
`float64` says what is exact. The bound after every call: no further from the peer than
the peer is from float64, plus 4 units in the last place or 0.3 a call (see
`agreement`), of the element or of its longest step. The table also counts what is
beyond 4 units of the element alone at any call. The exit status is 1 where a
configuration is out of the bound, 2 where a peer that was named is missing.

Every peer runs in a process of its own, as Keras has one backend in each. TensorFlow
cannot share an environment with JAX: `--python PATH` names an interpreter that has the
peer, which then runs there.
"""

import argparse
import contextlib
import importlib
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tests.peers import draws, streams
from tests.peers.feed import feed
from tests.peers.float64 import trajectory
from tests.peers.rows import Row
from tests.peers.streams import Stream, flatten

TREES = 12  # so many trees a run: what JAX compiles eagerly is compiled for shapes


class Case(NamedTuple):
    """One configuration and what it is fed."""

    row: Row
    stream: Stream


# --- the peers -----------------------------------------------------------------------


def _looped(module: str, *path: str) -> Callable[[Row], Any]:
    """A run of a loop of `record/`, of the function that its package has there."""

    def run(row: Row) -> Any:
        loop = importlib.import_module(f"tests.peers.record.{module}")
        made: Any = None
        if path:
            made = importlib.import_module(path[0])
            for name in path[1:]:
                made = getattr(made, name)
        if isinstance(made, dict):
            made = made[row.function]
        return loop.Loop(row, made) if path else loop.Loop(row)

    return run


class Peer(NamedTuple):
    """A peer as it is drawn and run."""

    recording: str
    """Its name among the rows, the calls and the transcriptions."""
    packages: tuple[str, ...]
    """Modules that it needs."""
    draw: Callable[[draws.Draw], Row]
    loop: Callable[[Row], Any]
    environment: dict[str, str]


_TORCH = _looped("torch_loop", "torch", "optim", "AdamW")
_KERAS = _looped("keras_loop")
_TF = ("tensorflow_loop", "tensorflow", "keras", "optimizers", "AdamW")
_TFA = ("tensorflow_loop", "tensorflow_addons", "optimizers", "AdamW")
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}
PEERS = {
    "torch": Peer("torch", ("torch",), draws.torch_single, _TORCH, {}),
    "torch_foreach": Peer("torch", ("torch",), draws.torch_foreach, _TORCH, {}),
    "torch_fused": Peer("torch", ("torch",), draws.torch_fused, _TORCH, {}),
    "keras_jax": Peer(
        "keras_jax", ("keras", "jax"), draws.keras, _KERAS, {"KERAS_BACKEND": "jax"}
    ),
    "keras_torch": Peer(
        "keras_torch", ("keras", "torch"), draws.keras, _KERAS,
        {"KERAS_BACKEND": "torch"},
    ),
    "mlx": Peer("mlx", ("mlx",), draws.mlx, _looped("mlx_loop"), {}),
    "optax": Peer("optax", ("optax",), draws.optax, _looped("optax_loop"), {}),
    "timm": Peer(
        "timm",
        ("timm", "torch"),
        draws.timm,
        _looped("torch_loop", "tests.peers.record.timm", "FUNCTIONS"),
        {},
    ),
    "optimi": Peer(
        "optimi", ("optimi", "torch"), draws.optimi,
        _looped("torch_loop", "optimi", "AdamW"), {},
    ),
    "tf_keras": Peer(
        "tf_keras", ("tensorflow",), draws.tf_keras, _looped(*_TF), _QUIET
    ),
    "tfa": Peer("tfa", ("tensorflow_addons",), draws.tfa, _looped(*_TFA), _QUIET),
}  # fmt: skip


def missing(peer: str) -> list[str]:
    """The modules that this interpreter lacks for a peer."""
    packages = PEERS[peer].packages
    return [name for name in packages if importlib.util.find_spec(name) is None]


def cases(peer: str, number: int, steps: int, seed: int) -> list[Case]:
    """So many configurations; the same for the same arguments."""
    trees = draws.Draw(np.random.default_rng(seed), steps)
    shapes = [draws.shapes(trees) for _ in range(TREES)]
    found = []
    for i in range(number):
        own = [seed, i, *peer.encode()]
        draw = draws.Draw(np.random.default_rng(own), steps)
        row = PEERS[peer].draw(draw)
        stream = draws.stream(draw, shapes[i % TREES], draws.window(row))
        found.append(Case(row, stream))
    return found


@contextlib.contextmanager
def _feeding(stream: Stream) -> Iterator[None]:
    """`feed` hands out this stream instead of the recorded one."""
    kept = streams.load
    streams.load = lambda *arguments: stream
    try:
        yield
    finally:
        streams.load = kept


def theirs(peer: str, case: Case) -> np.ndarray:
    """The parameters after every call of the installed peer."""
    with _feeding(case.stream), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecated options, for every one
        loop = PEERS[peer].loop(case.row)
        after = []
        for grads in loop.grads:
            loop.call(grads)
            after.append(flatten(loop.values()))
    return np.stack(after)


class Compared(NamedTuple):
    """A case, with units in the last place of two sizes of an element."""

    of_element: Any
    """Of the largest magnitude that it has had, as in the recorded rows."""
    of_step: Any
    """Of that or of its longest step: an element that crosses zero moves further than
    it is large, and its step is rounded too."""


def compared(peer: str, case: Case, of_peer: np.ndarray) -> Compared:
    """Our call on a case, measured as the recorded rows are."""
    from tests.peers import agreement, calls  # the peer's interpreter may have no JAX

    name, row = PEERS[peer].recording, case.row
    with _feeding(case.stream), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of optimi's large decays
        ours, _ = calls.run(calls.OPENED[name](row), row)
        start, grads = feed(row)
        exact = np.stack([flatten(t) for t in trajectory(name, row, start, grads)])
    path = np.concatenate([flatten(start)[None], exact])
    size = np.maximum.accumulate(np.abs(path))[1:]
    step = np.maximum.accumulate(np.abs(np.diff(path, axis=0)))

    def distance(size: np.ndarray) -> Any:
        unit = 2.0 ** np.floor(np.log2(np.maximum(size, 2.0**-126))) * 2.0**-23

        def ulps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            apart = np.abs(a.astype(np.float64) - b) / unit
            return np.max(np.where(np.isnan(apart), np.inf, apart), axis=1)

        return agreement.Distance(
            ulps(ours, of_peer), ulps(of_peer, exact), ulps(ours, exact)
        )

    return Compared(distance(size), distance(np.maximum(size, step)))


# --- the command ---------------------------------------------------------------------

HEADINGS = (
    "peer", "configurations", "steps", "within 4", "over 4", "largest excess",
    "out of the bound", "ours to peer", "peer to float64", "ours to float64", "s",
)  # fmt: skip
WIDTHS = [max(len(heading), 6) for heading in HEADINGS[1:]]


def _line(cells: tuple[Any, ...]) -> str:
    shown = [f"{c:.1f}" if isinstance(c, float) else str(c) for c in cells]
    columns = [c.rjust(w) for c, w in zip(shown[1:], WIDTHS, strict=True)]
    return "  ".join([shown[0].ljust(13), *columns])


def report(peer: str, found: list[Case], of_peer: list[np.ndarray]) -> bool:
    """Print the line of a peer, and the configurations out of the bound."""
    begin = time.perf_counter()
    both = [
        compared(peer, case, after) for case, after in zip(found, of_peer, strict=True)
    ]
    excess = [float(np.max(pair.of_element.excess)) for pair in both]
    distances = [pair.of_step for pair in both]
    red = [i for i, d in enumerate(distances) if not d.is_within]
    over = sum(x > 4 for x in excess)
    largest = [max(float(np.max(d[i])) for d in distances) for i in range(3)]
    steps = found[0].row.calls
    seconds = time.perf_counter() - begin
    print(
        _line((peer, len(found), steps, len(found) - over, over, max(excess), len(red),
               *largest, seconds)),
        flush=True,
    )  # fmt: skip
    for i in red[:5]:
        worst = int(np.argmax(distances[i].excess))
        numbers = ", ".join(f"{d[worst]:.1f}" for d in distances[i][:3])
        print(f"  {i}: after call {worst + 1}: {numbers}: {found[i].row}")
    return not red


def _elsewhere(python: str, peer: str, options: argparse.Namespace) -> list[Any]:
    """The peer's trajectories from another interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        file = str(pathlib.Path(folder) / "theirs.npz")
        command = [python, "-m", "tests.peers.live", peer, "--write", file]
        subprocess.run([*command, *_same(options)], check=True)
        with np.load(file) as arrays:
            return [arrays[str(i)] for i in range(options.configs)]


def _same(options: argparse.Namespace) -> list[str]:
    return [
        f"--configs={options.configs}",
        f"--steps={options.steps}",
        f"--seed={options.seed}",
    ]


def _one(peer: str, options: argparse.Namespace) -> int:
    """A peer, in this process."""
    os.environ.update(PEERS[peer].environment)
    found = cases(peer, options.configs, options.steps, options.seed)
    if options.python and missing(peer):
        return int(not report(peer, found, _elsewhere(options.python, peer, options)))
    of_peer = [theirs(peer, case) for case in found]
    if options.write:
        arrays = {str(i): after for i, after in enumerate(of_peer)}
        np.savez(options.write, **arrays)
        return 0
    return int(not report(peer, found, of_peer))


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.peers.live")
    parser.add_argument("peers", nargs="*", metavar="peer", help=", ".join(PEERS))
    parser.add_argument("--configs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--python", help="an interpreter that has what is missing here")
    parser.add_argument("--write", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    unknown = [peer for peer in options.peers if peer not in PEERS]
    if unknown:
        parser.error(f"no such peer: {unknown[0]}. Peers: {', '.join(PEERS)}")
    if options.write:
        return _one(options.peers[0], options)
    print(_line(HEADINGS), flush=True)
    status = 0
    for peer in options.peers or PEERS:
        if missing(peer) and not options.python:
            print(f"{peer:13}  not installed: {', '.join(missing(peer))}", flush=True)
            status = max(status, 2 if options.peers else 0)
        elif len(options.peers) == 1:
            status = _one(peer, options)
        else:
            command = [sys.executable, "-m", "tests.peers.live", peer]
            if options.python:
                command.append(f"--python={options.python}")
            done = subprocess.run(
                [*command, *_same(options)], capture_output=True, text=True, check=False
            )
            print(
                "".join(done.stdout.splitlines(keepends=True)[1:]), end="", flush=True
            )
            if done.returncode not in (0, 1):
                print(f"{peer:13}  failed: {done.stderr[-2000:]}", flush=True)
            status = max(status, done.returncode)
    return status


if __name__ == "__main__":
    sys.exit(main())
