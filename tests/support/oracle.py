"""AdamW in float64 NumPy, transcribed line by line from the papers it cites.

The oracle shares nothing with the library: no JAX, no trees, no fused expressions. It
works on plain dicts of arrays, one line of Python per line of the algorithm, so that it
can be compared with the papers by eye. `AdamW.step` takes a state and returns the next
one together with what a test needs to judge a float32 result: the exact target before
it is rounded to the parameter's dtype, the magnitude of the terms that were added (the
unit in which the error of a sum has to be counted) and the condition number of the
first moment.

Sources:
    [KB]    Kingma and Ba, Adam, arXiv 1412.6980v9: Algorithm 1; "epsilon hat" is the
            reordering printed just before section 2.1.
    [LH]    Loshchilov and Hutter, Decoupled Weight Decay, 1711.05101v3: Algorithm 2.
    [RKK]   Reddi, Kale and Kumar, On the Convergence of Adam, 1904.09237: Algorithm 2.
    [D]     Dozat, Incorporating Nesterov Momentum into Adam, ICLR 2016 workshop:
            Algorithm 2 with a constant momentum, in the form Optax uses.
    [LCLL]  Liang, Chen, Liu and Liu, Cautious Optimizers, 2411.16085: Algorithm 2
            with the floor of 1e-3 of its authors' code.
    [CWD]   Chen et al., Cautious Weight Decay, 2510.12402v2: Algorithm 1.
    [WDZ]   Wortsman et al., Stable and low-precision training, 2304.13013v2:
            Algorithm 2, with timm's limit and denominator.
    [PAG]   Pagliardini, Ablin and Grangier, AdEMAMix, 2409.03137v2: Algorithm 1.
    [PMB]   Pascanu, Mikolov and Bengio, 1211.5063: Algorithm 1 (norm clipping).
    [PJ]    Polyak and Juditsky, 1992: averaging of the iterates.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tests.support.arithmetic import (
    divide,
    moment_condition,
    moment_magnitude,
    norm,
    norm_factor,
    one_minus_power,
)
from tests.support.floats import as_reals, compute_dtype, round_to

Number = float | np.ndarray
Hyperparameter = Number | Callable[[int], Number]
Arrays = Mapping[str, np.ndarray | None]

# --- Schedules -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Table:
    """A schedule that reads one of `values`, the last one from there on.

    Looking up instead of computing lets the same values reach the library in float32
    and the oracle in float64.
    """

    values: tuple[float, ...]

    def __call__(self, step: int) -> float:
        """Return the value after `step` finished steps."""
        return self.values[min(int(step), len(self.values) - 1)]


# --- The optimizer -------------------------------------------------------------------


class State(NamedTuple):
    """The state between steps: a count and dicts of float64 arrays."""

    step: int
    mu: dict[str, np.ndarray]
    nu: dict[str, np.ndarray]
    nu_max: dict[str, np.ndarray] | None = None
    ema: dict[str, np.ndarray] | None = None
    mu_slow: dict[str, np.ndarray] | None = None


class Outcome(NamedTuple):
    """The result of one step, and the units in which its errors are counted.

    Attributes:
        params: The new parameters, rounded once to their dtype, as float64.
        state: The new state, in float64 (`mu` rounded to `mu_dtype` where given).
        target: The new parameters before they were rounded or overwritten.
        update: The exact difference from the old parameters.
        moment: The first moments before they were rounded to `mu_dtype`.
        scale: The sum of the magnitudes of all terms of `update`.
        moment_scale: The sum of the magnitudes of both terms of the first moment.
        condition: The condition number of the first moment.
        ema_scale: The magnitudes that the new average is made of.
    """

    params: dict[str, np.ndarray]
    state: State
    target: dict[str, np.ndarray]
    update: dict[str, np.ndarray]
    moment: dict[str, np.ndarray]
    scale: dict[str, np.ndarray]
    moment_scale: dict[str, np.ndarray]
    condition: dict[str, np.ndarray]
    ema_scale: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Every option of `optadamw.adamw`; a hyperparameter may be a function of the step.

    `decayed` names the parameters that decay (None: all); `groups` names parameters
    and the options that are other for them. `rounded=False` keeps the
    parameters in float64, for trajectories whose accumulated rounding is in question.
    """

    learning_rate: Hyperparameter
    b1: Hyperparameter = 0.9
    b2: Hyperparameter = 0.999
    eps: Hyperparameter = 1e-8
    eps_root: Hyperparameter = 0.0
    mu_dtype: Any = None
    weight_decay: Hyperparameter = 1e-4
    decayed: frozenset[str] | None = None
    nesterov: bool | str = False
    b3: Hyperparameter | None = None
    slow_alpha: Hyperparameter = 5.0
    amsgrad: str | None = None
    bias_correction: bool | str = True
    eps_mode: str = "outside"
    clip_value: Hyperparameter | None = None
    clip_norm: Hyperparameter | None = None
    clip_global_norm: Hyperparameter | None = None
    clip_eps: Hyperparameter = 0.0
    clip_update_rms: Hyperparameter | None = None
    clip_update_keeps_decay: bool = False
    ema_decay: Hyperparameter | None = None
    ema_overwrite_every: int | Callable[[int], float] | None = None
    ema_debias: bool = False
    ema_warmup: bool = False
    weight_decay_mode: str = "lr"
    max_learning_rate: float | None = None
    cautious_weight_decay: bool = False
    maximize: bool = False
    caution: bool = False
    groups: tuple[tuple[frozenset[str], Mapping[str, Any]], ...] = ()
    rounded: bool = True

    @property
    def _keeps_max(self) -> bool:
        return any([self.amsgrad, *(own.get("amsgrad") for _, own in self.groups)])

    def overwrite_every(self, finished: int) -> int:
        """Return the period of the overwrite after so many steps; 0 for never."""
        every = self.ema_overwrite_every
        return max(int(every(finished)) if callable(every) else every or 0, 0)

    def _for(self, name: str) -> "AdamW":
        """Return the options of one parameter: those of the first group it is in."""
        for names, own in self.groups:
            if name in names:
                return dataclasses.replace(self, groups=(), **own)
        return self

    def _at(self, finished: int) -> dict[str, float]:
        """Return every hyperparameter after so many steps."""
        return {
            name: float(value(finished)) if callable(value) else float(value)
            for name in _HYPERPARAMETERS
            if (value := getattr(self, name)) is not None
        }

    def init(self, params: Mapping[str, np.ndarray]) -> State:
        """Return zero moments; the average starts as a copy of the parameters."""

        def zeros() -> dict[str, np.ndarray]:
            return {name: np.zeros_like(_float64(p)) for name, p in params.items()}

        return State(
            step=0,
            mu=zeros(),
            nu=zeros(),
            nu_max=zeros() if self._keeps_max else None,
            ema=None
            if self.ema_decay is None
            else {name: _float64(p) for name, p in params.items()},
            mu_slow=None if self.b3 is None else zeros(),
        )

    def step(
        self, grads: Arrays, state: State, params: Mapping[str, np.ndarray]
    ) -> Outcome:
        """Take one step; a parameter whose gradient is None is left untouched."""
        old = {name: as_reals(_float64(p)) for name, p in params.items()}
        present = {
            name: as_reals(_float64(g)) for name, g in grads.items() if g is not None
        }
        clipped = self._clip(present, params, state.step)
        leaves = {}
        for name, p in params.items():
            buffers = {
                "mu": as_reals(state.mu[name]),
                "nu": as_reals(state.nu[name]),
                "nu_max": as_reals(state.nu_max[name]) if self._keeps_max else None,
                "ema": None if self.ema_decay is None else as_reals(state.ema[name]),
                "mu_slow": None if self.b3 is None else as_reals(state.mu_slow[name]),
            }
            if name not in clipped:
                leaves[name] = _untouched(old[name], buffers)
                continue
            own = self._for(name)
            decays = own.decayed is None or name in own.decayed
            hs = own._at(state.step)
            leaves[name] = own._leaf(
                clipped[name], buffers, old[name], p.dtype, decays, hs, state.step
            )

        def field(key: str) -> dict[str, np.ndarray]:
            return {
                name: _like(leaf[key], params[name]) for name, leaf in leaves.items()
            }

        return Outcome(
            params=field("params"),
            state=State(
                step=state.step + 1,
                mu=field("mu"),
                nu=field("nu"),
                nu_max=field("nu_max") if self._keeps_max else None,
                ema=None if self.ema_decay is None else field("ema"),
                mu_slow=None if self.b3 is None else field("mu_slow"),
            ),
            target=field("target"),
            update=field("update"),
            moment=field("moment"),
            scale=field("scale"),
            moment_scale=field("moment_scale"),
            condition=field("condition"),
            ema_scale=field("ema_scale"),
        )

    def run(
        self, gradients: Any, params: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], State]:
        """Take one step for each tree of `gradients`, starting from zero moments."""
        state = self.init(params)
        dtypes = {name: p.dtype for name, p in params.items()}
        for grads in gradients:
            params, state = self.step(grads, state, params)[:2]
            if self.rounded:
                # Exact: the values were rounded to this dtype already.
                params = {name: p.astype(dtypes[name]) for name, p in params.items()}
        return dict(params), state

    def _clip(
        self,
        grads: dict[str, np.ndarray],
        params: Mapping[str, np.ndarray],
        at: int,
    ) -> dict[str, np.ndarray]:
        """Negate, then limit values, then norms, then the norm of all."""
        owners = {name: (self._for(name), self._for(name)._at(at)) for name in grads}
        clipped = {}
        for name, g in grads.items():
            own, h = owners[name]
            if own.maximize:
                g = -g
            if own.clip_value is not None:
                g = np.clip(g, -h["clip_value"], h["clip_value"])
            if own.clip_norm is not None:
                g = g * norm_factor(norm([g]), h["clip_norm"])
            clipped[name] = g
        grads = clipped
        if self.clip_global_norm is not None:
            h = self._at(at)
            of_all = norm(grads.values())
            factor = norm_factor(of_all, h["clip_global_norm"], h["clip_eps"])
            grads = {name: g * factor for name, g in grads.items()}
        held = {}
        for name, g in grads.items():
            # A larger square would be infinite in the dtype of the computation.
            largest = math.sqrt(float(np.finfo(compute_dtype(params[name].dtype)).max))
            held[name] = np.where(np.isfinite(g), np.clip(g, -largest, largest), g)
        return held

    def _leaf(
        self,
        g: np.ndarray,
        buffers: dict[str, np.ndarray | None],
        p: np.ndarray,
        dtype: np.dtype,
        decays: bool,
        h: dict[str, float],
        finished: int,
    ) -> dict[str, np.ndarray | None]:
        """Apply the algorithm to one parameter; names of lines as in [KB], [LH]."""
        t = finished + 1  # [KB] line 5, [LH] line 4
        b1, b2 = h["b1"], h["b2"]
        m = b1 * buffers["mu"] + (1 - b1) * g  # [KB] line 7, [LH] line 7
        v = b2 * buffers["nu"] + (1 - b2) * g * g  # [KB] line 8, [LH] line 8
        bc1 = one_minus_power(b1, t) if self.bias_correction in (True, "mu") else 1.0
        bc2 = one_minus_power(b2, t) if self.bias_correction in (True, "nu") else 1.0
        v_max = buffers["nu_max"]
        v_used, bc2_used = v, bc2
        if self.amsgrad == "raw":  # [RKK] Algorithm 2, with Adam's bias correction
            v_max = np.maximum(buffers["nu_max"], v)
            v_used = v_max
        elif self.amsgrad == "corrected":  # the same of v / (1 - b2**t), as Optax
            v_max = np.maximum(buffers["nu_max"], v / bc2)
            v_used, bc2_used = v_max, 1.0

        terms = [(b1 * buffers["mu"], bc1), ((1 - b1) * g, bc1)]  # [KB] line 9
        if self.nesterov:  # [D]: the momentum of the next step, with its correction;
            # "current", timm's NAdamW, corrects it as that of this step
            next_bc1 = bc1
            if self.nesterov is True and self.bias_correction in (True, "mu"):
                next_bc1 = one_minus_power(b1, t + 1)
            terms = [(b1 * m, next_bc1), ((1 - b1) * g, bc1)]
        numerator = sum(a / c for a, c in terms)
        magnitude = moment_magnitude(terms, buffers["mu"], g, b1, self.nesterov)
        slow = None
        if self.b3 is not None:  # [PAG], without a bias correction
            kept, new = h["b3"] * buffers["mu_slow"], (1 - h["b3"]) * g
            slow = kept + new
            numerator = numerator + h["slow_alpha"] * slow
            magnitude = magnitude + h["slow_alpha"] * (np.abs(kept) + np.abs(new))
        if self.eps_mode == "outside":  # [KB] line 11
            denominator = np.sqrt(v_used / bc2_used + h["eps_root"]) + h["eps"]
        else:  # epsilon hat, [KB] before section 2.1
            denominator = np.sqrt(v_used + h["eps_root"]) + h["eps"]
            numerator = numerator * math.sqrt(bc2_used)
            magnitude = magnitude * math.sqrt(bc2_used)
        d = divide(numerator, denominator)
        d_magnitude = divide(magnitude, denominator)
        if self.caution:  # [LCLL]
            agrees = (d * g > 0).astype(np.float64)
            share = agrees.mean() if agrees.size else 1.0
            d = d * agrees / max(share, 1e-3)
            d_magnitude = d_magnitude * agrees / max(share, 1e-3)

        lr = h["learning_rate"]
        s = self._decay(lr, h) if decays else 0.0
        if self.cautious_weight_decay:  # [CWD]
            s = s * (np.sign(d) * np.sign(p) >= 0)
        if self.clip_update_rms is not None and g.size:  # [WDZ]
            rms = math.sqrt(np.mean(divide(g, denominator) ** 2))
            share = 1 / max(1.0, rms / h["clip_update_rms"])
            d, d_magnitude = d * share, d_magnitude * share
            s = s if self.clip_update_keeps_decay else s * share
        update = -lr * d - s * p  # [LH] line 12
        target = p + update
        stored = round_to(target, dtype) if self.rounded else target

        ema, ema_scale = None, np.zeros_like(p)
        if self.ema_decay is not None:  # [PJ], of the parameter as it was stored
            kept, new = self._ema_weights(h["ema_decay"], t)
            ema = kept * buffers["ema"] + new * stored
            ema_scale = np.abs(kept * buffers["ema"]) + np.abs(stored)
        final = stored
        every = self.overwrite_every(finished)
        if every and t % every == 0:
            final = round_to(ema, dtype) if self.rounded else ema
        return {
            "params": final,
            "target": target,
            "update": update,
            "moment": m,
            "mu": m if self.mu_dtype is None else round_to(m, self.mu_dtype),
            "nu": v,
            "nu_max": v_max,
            "ema": ema,
            "mu_slow": slow,
            "scale": lr * d_magnitude + np.abs(s * p),
            "moment_scale": np.abs(b1 * buffers["mu"]) + np.abs((1 - b1) * g),
            "condition": moment_condition(buffers["mu"], g, b1),
            "ema_scale": ema_scale,
        }

    def _decay(self, lr: float, h: dict[str, float]) -> float:
        """Return the share of the old parameter that is subtracted."""
        wd = h["weight_decay"]
        if self.weight_decay_mode == "lr":  # PyTorch, Keras, Optax
            return lr * wd
        if self.weight_decay_mode == "independent":  # TensorFlow Addons
            return wd
        largest = self._max_learning_rate()
        if self.weight_decay_mode == "schedule":  # [LH] line 12: eta * lambda
            return (lr / largest) * wd
        if self.weight_decay_mode == "corrected":  # timm's corrected_weight_decay
            return lr**2 / largest * wd
        raise ValueError(self.weight_decay_mode)

    def _max_learning_rate(self) -> float:
        if self.max_learning_rate is not None:
            return float(self.max_learning_rate)
        if callable(self.learning_rate):
            raise ValueError("a schedule needs max_learning_rate")
        return float(self.learning_rate)

    def _ema_weights(self, decay: float, t: int) -> tuple[float, float]:
        """Return the weights of the old average and of the new parameter."""
        if self.ema_debias:
            # The average that starts at zero, divided by its bias 1 - decay**t, as a
            # recurrence: [KB] section 3 applied to the parameters.
            if decay == 1:
                return (t - 1) / t, 1 / t  # the limit, where the formula is 0 / 0
            total = one_minus_power(decay, t)
            return decay * one_minus_power(decay, t - 1) / total, (1 - decay) / total
        if self.ema_warmup:  # TensorFlow's ExponentialMovingAverage(num_updates)
            decay = min(decay, (1 + t) / (10 + t))
        return decay, 1 - decay


_HYPERPARAMETERS = (
    "learning_rate",
    "b1",
    "b2",
    "b3",
    "slow_alpha",
    "eps",
    "eps_root",
    "weight_decay",
    "clip_value",
    "clip_norm",
    "clip_global_norm",
    "clip_eps",
    "clip_update_rms",
    "ema_decay",
)


def _float64(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def _untouched(
    p: np.ndarray, buffers: dict[str, np.ndarray | None]
) -> dict[str, np.ndarray | None]:
    """Return what `AdamW._leaf` returns, for a parameter without a gradient."""
    zero = np.zeros_like(p)
    return {
        "params": p,
        "target": p,
        "update": zero,
        "moment": buffers["mu"],
        "scale": zero,
        "moment_scale": np.abs(buffers["mu"]),
        "condition": zero + 1,
        "ema_scale": zero,
        **buffers,
    }


def _like(x: np.ndarray, param: np.ndarray) -> np.ndarray:
    """Undo `as_reals` where the parameter is complex."""
    return x[..., 0] + 1j * x[..., 1] if np.iscomplexobj(param) else x
