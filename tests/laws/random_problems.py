"""Random trees, gradients and options, as strategies of Hypothesis."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import optadamw

PyTree = Any
WIDE = jax.config.read("jax_enable_x64")


# --- Options -------------------------------------------------------------------------


@dataclass(frozen=True)
class Chain:
    """A set of structural options, and how far a gradient reaches through it."""

    options: dict[str, Any]
    by_element: bool = True
    """Whether a result depends on the gradients of its own element alone."""
    by_leaf: bool = True
    """Whether it depends on those of its own leaf alone."""
    keeps: bool = True
    """Whether a parameter without gradient and decay stays; an overwrite moves it."""

    def __repr__(self) -> str:
        return f"adamw(..., {', '.join(f'{k}={v!r}' for k, v in self.options.items())})"


CHAINS = (
    Chain({}),
    Chain({"nesterov": True, "mu_dtype": "bfloat16"}),
    Chain({"amsgrad": "raw", "eps_mode": "hat", "weight_decay_mode": "schedule"}),
    Chain({"amsgrad": "corrected", "nesterov": True, "ema_debias": True}),
    Chain(
        {"bias_correction": False, "maximize": True, "weight_decay_mode": "independent"}
    ),
    Chain({"clip_value": 1.0, "ema_warmup": True, "weight_decay_mode": "corrected"}),
    Chain({"ema_overwrite_every": 2, "eps_mode": "hat"}, keeps=False),
    Chain({"caution": True, "nesterov": True}, by_element=False),
    Chain({"clip_norm": 1.0, "amsgrad": True, "maximize": True}, by_element=False),
    Chain({"clip_global_norm": 1.0, "caution": True}, by_element=False, by_leaf=False),
)

UNIT = (0.0, 1e-8, 0.5, 0.9, 0.999, 0.9999999, 1 - 2.0**-53)
SIZES = (1e-30, 1e-16, 1e-8, 1e-3, 1.0, 1e30)

HYPERPARAMETERS = {
    "learning_rate": st.sampled_from((0.0, 1e-8, 1e-3, 1.0, 1e3)) | st.floats(0, 10),
    "b1": st.sampled_from(UNIT) | st.floats(0, 1, exclude_max=True),
    "b2": st.sampled_from(UNIT) | st.floats(0, 1, exclude_max=True),
    "eps": st.sampled_from((0.0, *SIZES)),
    "eps_root": st.sampled_from((0.0, 0.0, *SIZES)),
    "weight_decay": st.sampled_from((0.0, 1e-4, 0.1, 1.0, 100.0)),
    "ema_decay": st.sampled_from((0.0, 0.5, 0.999, 1.0)),
}


class Setup(NamedTuple):
    """One transformation, with everything that the laws need to know of it."""

    chain: Chain
    numbers: dict[str, float]

    @property
    def tx(self) -> Any:
        options = self.chain.options
        numbers = dict(self.numbers)
        if not any(name.startswith("ema") for name in options):
            del numbers["ema_decay"]
        if options.get("weight_decay_mode") in ("schedule", "corrected"):
            # The peak is the constant learning rate itself, which has to be positive.
            # A peak that float32 cannot hold is refused, as a division by 0 would be.
            held = float(np.float32(numbers["learning_rate"]))
            numbers["max_learning_rate"] = numbers["learning_rate"] if held else 1.0
        return optadamw.adamw(**numbers, **options)

    def shrinkage(self) -> float:
        """Return the share of itself that a parameter loses in a step."""
        rate, decay = self.numbers["learning_rate"], self.numbers["weight_decay"]
        match self.chain.options.get("weight_decay_mode", "lr"):
            case "schedule":
                return decay * (rate > 0)
            case "independent":
                return decay
            case _:
                return rate * decay

    def reach(self, t: int) -> float:
        """Return the largest magnitude that a direction can have in step t.

        Let w_k and v_k be the weights of the gradient of k steps ago in the numerator
        and under the root. By Cauchy and Schwarz

            sum w_k |g_k| = sum (w_k / sqrt v_k) (sqrt v_k |g_k|)
                         <= sqrt(sum w_k^2 / v_k) sqrt(sum v_k g_k^2),

        whose second factor is the denominator at eps = eps_root = 0; both only enlarge
        it, as AMSGrad's maximum does. Epsilon hat multiplies both sides by the same.
        Clips change the g_k and not the weights. Caution multiplies by at most 1000.
        """
        b1, b2, k = self.numbers["b1"], self.numbers["b2"], np.arange(t)
        options = self.chain.options
        corrected = options.get("bias_correction", True)
        w, v = (1 - b1) * b1**k, (1 - b2) * b2**k
        if options.get("nesterov"):
            w = b1 * w / (remaining(b1, t + 1) if corrected else 1)
            w[0] += (1 - b1) / (remaining(b1, t) if corrected else 1)
        elif corrected:
            w = w / remaining(b1, t)
        v = v / (remaining(b2, t) if corrected else 1)
        used = w > 0
        with np.errstate(divide="ignore", over="ignore"):
            bound = float(np.sqrt(np.sum((w[used] / np.sqrt(v[used])) ** 2)))
        return bound * (1000 if options.get("caution") else 1)


def remaining(beta: float, t: int) -> float:
    """Return 1 - beta**t, accurately."""
    return -np.expm1(t * np.log(beta)) if beta else 1.0


def setups(*, decay: bool = True, **wanted: bool) -> st.SearchStrategy[Setup]:
    """Draw a chain with the attributes `wanted`, and its hyperparameters."""
    chains = [c for c in CHAINS if all(getattr(c, k) == v for k, v in wanted.items())]
    numbers = dict(HYPERPARAMETERS)
    if not decay:
        numbers["weight_decay"] = st.just(0.0)

    def made(chain: Chain, numbers: dict[str, float]) -> Setup:
        if "mu_dtype" in chain.options:  # beyond, it would freeze, and is refused
            numbers = numbers | {"b1": min(numbers["b1"], 0.99)}
        return Setup(chain, numbers)

    return st.builds(made, st.sampled_from(chains), st.fixed_dictionaries(numbers))


# --- Trees and arrays ----------------------------------------------------------------


class Pair(NamedTuple):
    """A container with named fields."""

    left: Any
    right: Any


@dataclass(frozen=True)
class Spec:
    """The kind of a leaf. Shapes are few: each is compiled for each dtype and chain."""

    dtype: Any
    shape: tuple[int, ...]


if WIDE:
    REAL, COMPLEX = (np.float64, np.float32), (np.complex128, np.complex64)
else:
    REAL, COMPLEX = (np.float32, ml_dtypes.bfloat16, np.float16), (np.complex64,)


SHAPES = ((), (0,), (1,), (7,), (2, 3), (3, 0))
specs = st.builds(Spec, st.sampled_from(REAL + COMPLEX), st.sampled_from(SHAPES))
names = st.sampled_from(("a", "bias", "kernel", "value"))


def containers(children: st.SearchStrategy[PyTree]) -> st.SearchStrategy[PyTree]:
    several = st.lists(children, max_size=3)
    return st.one_of(
        several,
        several.map(tuple),
        st.dictionaries(names, children, max_size=3),
        st.builds(Pair, children, children),
    )


some_trees = st.recursive(specs | st.none(), containers, max_leaves=5)
trees = st.builds(lambda first, rest: {"first": first, "rest": rest}, specs, some_trees)


def real_of(dtype: Any) -> np.dtype:
    """Return the dtype of the real and imaginary parts."""
    return np.dtype(dtype).type(0).real.dtype if is_complex(dtype) else np.dtype(dtype)


def is_complex(dtype: Any) -> bool:
    return np.dtype(dtype).kind == "c"


def as_reals(x: Any) -> np.ndarray:
    """View an array on the host as reals; a complex one gains a last axis of two."""
    x = np.asarray(x)
    return np.stack([x.real, x.imag], axis=-1) if is_complex(x.dtype) else x


def from_reals(x: np.ndarray, dtype: Any) -> jax.Array:
    """Round to the real dtype of `dtype`, staying finite where `x` is."""
    most = float(ml_dtypes.finfo(real_of(dtype)).max)
    x = np.where(np.isfinite(x), np.clip(x, -most, most), x).astype(real_of(dtype))
    if is_complex(dtype):
        x = np.ascontiguousarray(x).view(dtype)[..., 0]
    return jnp.asarray(x)


def arrays(spec: Spec, elements: st.SearchStrategy[float]) -> Any:
    shape = (*spec.shape, 2) if is_complex(spec.dtype) else spec.shape
    drawn = hnp.arrays(np.float64, shape, elements=elements)
    return drawn.map(lambda x: from_reals(x, spec.dtype))


MOST, LEAST = (1e300, 1e-300) if WIDE else (3e38, 1e-38)
POWERS = st.floats(np.log10(LEAST), np.log10(MOST)).map(lambda e: 10.0**e)
SPECIAL = st.sampled_from((0.0, -0.0, 1.0, -1.0, MOST, -MOST, LEAST, 1e20, 3e-18))
GRADIENTS = SPECIAL | POWERS | POWERS.map(lambda x: -x) | st.floats(-2, 2)
BAD = st.sampled_from((np.nan, np.inf, -np.inf))

# XLA flushes subnormal float32 numbers on the CPU, so no parameter is one.
ORDINARY = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
VALUES = ORDINARY | st.sampled_from((0.0, -0.0, 1.0, 1e-4, 1e30, -1e30))


@st.composite
def fills(draw: Any, tree: PyTree, elements: st.SearchStrategy[float]) -> PyTree:
    """Draw an array for each spec of `tree`."""
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten([draw(arrays(spec, elements)) for spec in leaves])


@st.composite
def problems(
    draw: Any,
    *,
    gradients: st.SearchStrategy[float] = GRADIENTS,
    complex_only: bool = False,
) -> tuple[PyTree, list[PyTree]]:
    """Draw parameters, and the gradients of one to three steps."""
    tree = draw(trees)
    if complex_only:
        tree = jax.tree.map(lambda s: Spec(COMPLEX[0], s.shape), tree)
    count = draw(st.integers(1, 3))
    grads = [draw(fills(tree, gradients)) for _ in range(count)]
    return draw(fills(tree, VALUES)), grads


def without_sign_of_zero(x: jax.Array) -> jax.Array:
    return jnp.asarray(np.asarray(x) + np.zeros((), x.dtype))


def run(tx: Any, params: PyTree, grads: list[PyTree], state: Any = None) -> Any:
    """Take a step for each of `grads`."""
    state = tx.init(params) if state is None else state
    for g in grads:
        params, state = tx.step(g, state, params)
    return params, state


def bits(x: PyTree) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(x)]


def leafwise(result: Any) -> list[list[Any]]:
    """Return, for each parameter, itself and its buffers."""
    params, state = result
    columns = [jax.tree.leaves(params)]
    for buffers in state[1:]:
        if buffers is not None:
            columns.append(jax.tree.leaves(buffers))
    return [list(row) for row in zip(*columns, strict=True)]
