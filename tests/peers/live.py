"""R4: every door beside its installed peer, on configurations drawn at random.

    python -m tests.peers.live [peer ...] [--configs 200] [--steps 20] [--seed 0]

Hyperparameters over wide ranges, trees of random shapes, gradients over seven decades,
float32; the peer runs in the loops of `record/`, our door in those of `tests.peers.doors`,
and `float64` says what is exact. The bound after every call: no further from the peer
than the peer is from float64, plus 4 units in the last place or 0.3 a call (see
`tests.peers.agreement`), of the element or of its longest step. The table also counts what is
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

from tests.peers import streams
from tests.peers.feed import feed
from tests.peers.float64 import trajectory
from tests.peers.rows import Row
from tests.peers.streams import Stream, Tree, flatten
from tests.peers.values import Cosine, Decayed, Exponential, Tensor, ZeroArgument

Outside = dict[str, Any]
Kwargs = dict[str, Any]
TREES = 12  # so many trees a run: what JAX compiles eagerly is compiled for shapes


class Case(NamedTuple):
    """One configuration and what it is fed."""

    row: Row
    stream: Stream


class Draw:
    """Random choices that a reader of a configuration would call sensible and wide."""

    def __init__(self, generator: np.random.Generator, steps: int):
        self.generator, self.steps = generator, steps

    def chance(self, share: float) -> bool:
        return bool(self.generator.uniform() < share)

    def one_of(self, *values: Any) -> Any:
        return values[self.generator.integers(len(values))]

    def log(self, low: float, high: float) -> float:
        """A number whose logarithm to base 10 is uniform."""
        return float(f"{10.0 ** self.generator.uniform(low, high):.4g}")

    def between(self, low: float, high: float) -> float:
        return float(f"{self.generator.uniform(low, high):.4g}")

    def rate(self) -> float:
        return self.log(-5, -0.5)

    def decay(self, rate: float, most: float = 0.5) -> float:
        """A decay that takes less than `most` of a parameter at a step."""
        if self.chance(0.15):
            return 0.0
        return min(self.log(-5, 0.5), float(f"{most / rate:.3g}"))

    def b1(self) -> float:
        return self.one_of(0.0, 0.9, 0.9, self.between(0.0, 0.99))

    def b2(self) -> float:
        return self.one_of(0.999, 0.99, 0.5, self.between(0.5, 0.9999))

    def eps(self) -> float:
        return self.one_of(1e-8, 1e-7, self.log(-12, -2))

    def schedule(self, initial: float) -> Any:
        return self.one_of(
            Exponential(initial, self.one_of(3, 10), self.between(0.3, 0.99)),
            Cosine(initial, self.one_of(7, self.steps, 3 * self.steps), 0.1),
        )

    def infinite(self) -> tuple[int, ...]:
        calls = self.generator.uniform(size=self.steps) < 0.15
        return tuple(int(call) for call in np.flatnonzero(calls))


def _shapes(draw: Draw) -> dict[str, tuple[int, ...]]:
    """Leaves of up to 60 elements: a worst case is one of elements, too."""
    found: dict[str, tuple[int, ...]] = {}
    for name in streams.SHAPES:
        shape: tuple[int, ...] = ()
        for _ in range(draw.one_of(0, 1, 1, 2, 2, 3)):
            sizes = [n for n in (1, 2, 3, 5, 7, 17) if n * np.prod(shape) <= 60]
            shape = (*shape, draw.one_of(*sizes))
        found[name] = shape
    return found


def _window(row: Row) -> int:
    """How many gradients make a step."""
    every = row.outside.get("multi_steps", {}).get("every_k_schedule")
    return (
        every
        or row.outside.get("accumulation")
        or row.kwargs.get("gradient_accumulation_steps")
        or 1
    )


def _stream(draw: Draw, shapes: dict[str, tuple[int, ...]], window: int) -> Stream:
    """Parameters and gradients as those of `streams`, wider.

    In the window of an accumulation an element keeps its sign. Sums that cancel have
    lost the digits that would be compared: what is left is the order of additions.
    """
    normal, uniform = draw.generator.normal, draw.generator.uniform
    params: Tree = {}
    grads: list[Tree] = [{} for _ in range(draw.steps)]
    burst = 10.0 ** (2 * (uniform(size=draw.steps) < 0.1))
    for name, shape in shapes.items():
        params[name] = np.float32(normal(size=shape) * 10.0 ** uniform(-2, 1))
        magnitude = 10.0 ** uniform(-5, 2, shape)
        sign = np.ones(shape)
        drift, phase = uniform(0, 1.5), uniform(0, 2 * np.pi, shape)
        for call in range(draw.steps):
            g = normal(size=shape) + drift * np.sin(phase + call / 6)
            sign = np.sign(g) if call % window == 0 else sign
            g = np.abs(g) * sign if window > 1 else g
            g = np.where(uniform(size=shape) < 0.05, 0.0, magnitude * g * burst[call])
            grads[call][name] = np.float32(g)
    return Stream(params, grads)


# --- configurations of each peer -----------------------------------------------------


def _torch_like(draw: Draw, kwargs: Kwargs, *, own_betas: str = "betas") -> Outside:
    """What stands around an optimizer of PyTorch's kind."""
    outside: Outside = {}
    if draw.chance(0.3):
        rate = draw.rate()
        betas = draw.b1(), draw.b2()
        named = (
            {"betas": betas}
            if own_betas == "betas"
            else {"beta1": betas[0], "beta2": betas[1]}
        )
        outside["groups"] = {
            "*/bias": {"weight_decay": 0.0},
            "b/*": {"lr": rate, "eps": draw.eps(), **named},
        }
        decayed = kwargs["weight_decay"]
        kwargs["weight_decay"] = min(decayed, float(f"{0.5 / rate:.3g}"))
    if draw.chance(0.3):
        outside["lambda_lr"] = draw.schedule(1.0)
    if draw.chance(0.3):
        outside["clip_grad_norm"] = draw.log(-3, 3)
    return outside


def _numbers(draw: Draw) -> Kwargs:
    rate = draw.rate()
    return {
        "lr": rate,
        "betas": (draw.b1(), draw.b2()),
        "eps": draw.eps(),
        "weight_decay": draw.decay(rate),
    }


def _torch(draw: Draw, **implementation: Any) -> Row:
    kwargs = _numbers(draw) | implementation
    kwargs["amsgrad"], kwargs["maximize"] = draw.chance(0.3), draw.chance(0.2)
    outside = _torch_like(draw, kwargs)
    if draw.chance(0.15) and "clip_grad_norm" not in outside:
        outside["clip_grad_value"] = draw.log(-4, 2)
    if draw.chance(0.2):
        outside["accumulation"] = draw.one_of(2, 3, 5)
    elif draw.chance(0.25) and not {"lambda_lr", "clip_grad_value"} & set(outside):
        outside["grad_scaler"] = {
            "init_scale": 2.0 ** draw.one_of(0, 8, 16),
            "growth_factor": draw.one_of(2.0, 4.0),
            "backoff_factor": draw.one_of(0.5, 0.25),
            "growth_interval": draw.one_of(1, 3, 7),
        }
        outside["infinite_at"] = draw.infinite()
    elif not outside and not implementation.get("foreach") and draw.chance(0.5):
        shape = draw.one_of((), (1,))
        kwargs["lr"] = Tensor(kwargs["lr"], shape)
        if draw.chance(0.5):
            kwargs["betas"] = tuple(Tensor(beta) for beta in kwargs["betas"])
    return Row("AdamW", kwargs, "float32", draw.steps, outside)


def _torch_single(draw: Draw) -> Row:
    return _torch(draw, foreach=False)


def _torch_foreach(draw: Draw) -> Row:
    return _torch(draw, foreach=True)


def _torch_fused(draw: Draw) -> Row:
    return _torch(draw, fused=True)


def _timm(draw: Draw) -> Row:
    function = draw.one_of("AdamWLegacy", "NAdamW")
    kwargs = _numbers(draw) | {
        "caution": draw.chance(0.4),
        "corrected_weight_decay": draw.chance(0.4),
        "maximize": draw.chance(0.2),
        "foreach": draw.chance(0.5),
    }
    if function == "AdamWLegacy":
        kwargs["amsgrad"] = draw.chance(0.3)
    outside = _torch_like(draw, kwargs)
    if kwargs["corrected_weight_decay"]:
        # A group's rate is squared over the constructor's: more than all would decay.
        fastest = outside.get("groups", {}).get("b/*", {}).get("lr", 0.0)
        if fastest > kwargs["lr"]:
            del outside["groups"]
    _one_of_two(outside)
    return Row(function, kwargs, "float32", draw.steps, outside)


def _one_of_two(outside: Outside) -> None:
    """No clip around groups: `chain` takes no transformation that has some."""
    if "groups" in outside:
        outside.pop("clip_grad_norm", None)


def _optimi(draw: Draw) -> Row:
    kwargs = _numbers(draw)
    kwargs["foreach"] = draw.one_of(None, False, True)
    outside = _torch_like(draw, kwargs, own_betas="apart")
    if draw.chance(0.4):
        kwargs["decouple_lr"] = True
        kwargs["weight_decay"] = draw.one_of(0.0, draw.log(-6, -1))
        if draw.chance(0.5):
            kwargs["max_lr"] = float(f"{kwargs['lr'] * draw.between(1, 10):.4g}")
        outside.pop("groups", None)
    _one_of_two(outside)
    return Row("AdamW", kwargs, "float32", draw.steps, outside)


def _keras_numbers(draw: Draw, kwargs: Kwargs) -> Kwargs:
    rate = draw.rate()
    return kwargs | {
        "learning_rate": draw.one_of(
            rate, rate, draw.schedule(rate), ZeroArgument(rate)
        ),
        "weight_decay": draw.decay(rate),
        "beta_1": draw.b1(),
        "beta_2": draw.b2(),
        "epsilon": draw.eps(),
        "amsgrad": draw.chance(0.3),
    }


def _clip(draw: Draw) -> Kwargs:
    name = draw.one_of("clipnorm", "clipvalue", "global_clipnorm")
    return {name: draw.log(-3, 2)} if draw.chance(0.5) else {}


def _average(draw: Draw) -> Kwargs:
    if draw.chance(0.6):
        return {}
    return {
        "use_ema": True,
        "ema_momentum": draw.one_of(0.99, 0.0, 1.0, draw.between(0.1, 0.99)),
        "ema_overwrite_frequency": draw.one_of(None, None, 1, 2, 3, 7),
    }


def _excluded(draw: Draw, outside: Outside, *two: str) -> None:
    if draw.chance(0.25):
        outside["exclude"] = draw.one_of(("bias",), two)


def _keras(draw: Draw) -> Row:
    outside: Outside = {}
    kwargs = _keras_numbers(draw, _clip(draw)) | _average(draw)
    if draw.chance(0.35):
        kwargs["gradient_accumulation_steps"] = draw.one_of(2, 3, 5)
    scalable = not ("use_ema" in kwargs and "gradient_accumulation_steps" in kwargs)
    if draw.chance(0.2) and scalable:
        outside["loss_scale"] = {
            "initial_scale": 2.0 ** draw.one_of(0, 8, 15),
            "dynamic_growth_steps": draw.one_of(1, 3, 7),
        }
        outside["infinite_at"] = draw.infinite()
    elif draw.chance(0.25):
        kwargs["loss_scale_factor"] = draw.one_of(8.0, 1024.0, 3.0)
        outside["scaled_by"] = kwargs["loss_scale_factor"]
    _excluded(draw, outside, "^kern", "temperature")
    return Row("AdamW", kwargs, "float32", draw.steps, outside)


def _tf_keras(draw: Draw) -> Row:
    outside: Outside = {}
    kwargs = _keras_numbers(draw, _clip(draw)) | _average(draw)
    kwargs["jit_compile"] = False
    _excluded(draw, outside, "^b/", "scale")
    return Row("AdamW", kwargs, "float32", draw.steps, outside)


def _tfa(draw: Draw) -> Row:
    outside: Outside = {}
    kwargs = _keras_numbers(draw, {})
    decay = draw.one_of(0.0, draw.log(-6, -0.5))
    kwargs["weight_decay"] = decay
    if decay and draw.chance(0.3):
        kwargs["weight_decay"] = draw.one_of(draw.schedule(decay), ZeroArgument(decay))
    if draw.chance(0.3):
        kwargs["clipvalue"] = draw.log(-3, 2)
    if draw.chance(0.4):
        kwargs[draw.one_of("clipnorm", "global_clipnorm")] = draw.log(-3, 2)
    if draw.chance(0.2):
        kwargs["decay"] = draw.log(-3, 0)
    if draw.chance(0.2):
        kwargs["exclude_from_weight_decay"] = draw.one_of(["bias"], ["^b/", "scale"])
    if draw.chance(0.15):
        outside["decay_var_list"] = ("*/kernel",)
    return Row("AdamW", kwargs, "float32", draw.steps, outside)


def _mlx(draw: Draw) -> Row:
    def numbers(rate: float) -> Kwargs:
        return {
            "learning_rate": rate,
            "betas": [draw.b1(), draw.b2()],
            "eps": draw.eps(),
            "weight_decay": draw.decay(rate),
        }

    outside: Outside = {}
    rate = draw.rate()
    kwargs = numbers(rate) | {"bias_correction": draw.chance(0.5)}
    if draw.chance(0.3):
        kwargs["learning_rate"] = draw.schedule(rate)
    if draw.chance(0.3):
        outside["clip_grad_norm"] = draw.log(-3, 3)
    if draw.chance(0.2):
        outside["groups"] = {
            "*/bias": numbers(draw.rate()),
            "b/*": {"bias_correction": True},
        }
    return Row("AdamW", kwargs, "float32", draw.steps, outside)


def _optax(draw: Draw) -> Row:
    rate = draw.rate()
    function = draw.one_of("adamw", "adamw", "nadamw", "amsgrad", "scale_by_amsgrad")
    outside: Outside = {}
    kwargs = {"b1": draw.b1(), "b2": draw.b2(), "eps": draw.eps()}
    kwargs["eps_root"] = draw.one_of(0.0, 0.0, draw.log(-12, -3))
    if function == "scale_by_amsgrad":
        outside["decay"] = {"weight_decay": draw.decay(rate), "learning_rate": rate}
    else:
        kwargs["learning_rate"] = draw.one_of(rate, rate, draw.schedule(rate))
    if function == "amsgrad":
        kwargs["bias_correction_mu"] = draw.chance(0.7)
        kwargs["bias_correction_nu"] = draw.chance(0.7)
    if function in ("adamw", "nadamw"):
        decay = draw.decay(rate)
        kwargs["weight_decay"] = draw.one_of(decay, decay, draw.schedule(decay))
        if draw.chance(0.3):
            kwargs["mask"] = Decayed(("*/bias", "temperature"))
        if all(isinstance(value, float) for value in kwargs.values()):
            if draw.chance(0.4):
                outside["inject_hyperparams"] = True
    clips = [
        ("clip", draw.log(-3, 2)),
        ("clip_by_global_norm", draw.log(-2, 3)),
        ("clip_by_block_rms", draw.log(-3, 2)),
    ]
    chosen = tuple(clip for clip in clips if draw.chance(0.15))
    if chosen and function != "scale_by_amsgrad":
        outside["chain"] = chosen
    if draw.chance(0.2):
        every = draw.one_of(2, 3, 5)
        mean = draw.chance(0.7)
        outside["multi_steps"] = {"every_k_schedule": every, "use_grad_mean": mean}
    elif draw.chance(0.15):
        outside["apply_if_finite"] = 1000
        outside["infinite_at"] = draw.infinite()
    return Row(function, kwargs, "float32", draw.steps, outside)


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
    """Its name among the rows, the doors and the transcriptions."""
    packages: tuple[str, ...]
    """Modules that it needs."""
    draw: Callable[[Draw], Row]
    loop: Callable[[Row], Any]
    environment: dict[str, str]


_TORCH = _looped("torch_loop", "torch", "optim", "AdamW")
_KERAS = _looped("keras_loop")
_TF = ("tensorflow_loop", "tensorflow", "keras", "optimizers", "AdamW")
_TFA = ("tensorflow_loop", "tensorflow_addons", "optimizers", "AdamW")
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}
PEERS = {
    "torch": Peer("torch", ("torch",), _torch_single, _TORCH, {}),
    "torch_foreach": Peer("torch", ("torch",), _torch_foreach, _TORCH, {}),
    "torch_fused": Peer("torch", ("torch",), _torch_fused, _TORCH, {}),
    "keras_jax": Peer(
        "keras_jax", ("keras", "jax"), _keras, _KERAS, {"KERAS_BACKEND": "jax"}
    ),
    "keras_torch": Peer(
        "keras_torch", ("keras", "torch"), _keras, _KERAS, {"KERAS_BACKEND": "torch"}
    ),
    "mlx": Peer("mlx", ("mlx",), _mlx, _looped("mlx_loop"), {}),
    "optax": Peer("optax", ("optax",), _optax, _looped("optax_loop"), {}),
    "timm": Peer(
        "timm",
        ("timm", "torch"),
        _timm,
        _looped("torch_loop", "tests.peers.record.timm", "FUNCTIONS"),
        {},
    ),
    "optimi": Peer(
        "optimi", ("optimi", "torch"), _optimi,
        _looped("torch_loop", "optimi", "AdamW"), {},
    ),
    "tf_keras": Peer("tf_keras", ("tensorflow",), _tf_keras, _looped(*_TF), _QUIET),
    "tfa": Peer("tfa", ("tensorflow_addons",), _tfa, _looped(*_TFA), _QUIET),
}  # fmt: skip


def missing(peer: str) -> list[str]:
    """The modules that this interpreter lacks for a peer."""
    packages = PEERS[peer].packages
    return [name for name in packages if importlib.util.find_spec(name) is None]


def cases(peer: str, number: int, steps: int, seed: int) -> list[Case]:
    """So many configurations; the same for the same arguments."""
    trees = Draw(np.random.default_rng(seed), steps)
    shapes = [_shapes(trees) for _ in range(TREES)]
    found = []
    for i in range(number):
        own = [seed, i, *peer.encode()]
        draw = Draw(np.random.default_rng(own), steps)
        row = PEERS[peer].draw(draw)
        stream = _stream(draw, shapes[i % TREES], _window(row))
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
    """Our door on a case, measured as the recorded rows are."""
    from tests.peers import agreement, doors  # the peer's interpreter may have no JAX

    name, row = PEERS[peer].recording, case.row
    with _feeding(case.stream), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of optimi's large decays
        ours, _ = doors.run(doors.OPENED[name](row), row)
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
