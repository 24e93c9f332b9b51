"""One parameter's step in PyTorch and in the packages built on its optimizers.

Each rule takes the parameter, its gradient, its buffers (changed in place), the
group's hyperparameters and the step count from 1, and returns the new parameter.
"""

from typing import Any

import numpy as np

Array = np.ndarray
Hyper = dict[str, Any]


def _moments(g: Array, state: dict, b1: float, b2: float) -> tuple[Array, Array]:
    m = state["mu"] = b1 * state.get("mu", 0.0) + (1 - b1) * g
    v = state["nu"] = b2 * state.get("nu", 0.0) + (1 - b2) * g * g
    return m, v


def _decay(x: Array, amount: float, hyper: Hyper) -> Array:
    """Multiply by `1 - amount`, in a float32 run rounded to float32.

    The same rounding meets the parameter at every step: up to 0.5 ulp of the factor
    each time, 20 ulps after 50 steps, so that it cannot be left out of a comparison.
    """
    factor = 1 - amount
    return x * (float(np.float32(factor)) if hyper["narrow"] else factor)


def torch(x: Array, g: Array, state: dict, hyper: Hyper, t: int) -> Array:
    """`x *= 1 - lr wd`, then `x -= lr/bc1 * m / (sqrt(v)/sqrt(bc2) + eps)`."""
    if np.iscomplexobj(x):
        return _as_two_reals(x, g, state, hyper, t)
    g = -g if hyper["maximize"] else g
    x = _decay(x, hyper["lr"] * hyper["weight_decay"], hyper)
    m, v = _moments(g, state, *hyper["betas"])
    if hyper["amsgrad"]:
        v = state["nu_max"] = np.maximum(state.get("nu_max", 0.0), v)
    if hyper["float32_powers"]:
        return x - m / _differentiable_denominator(v, hyper, t)
    b1, b2 = hyper["betas"]
    denominator = np.sqrt(v) / np.sqrt(1 - b2**t) + hyper["eps"]
    return x - hyper["lr"] / (1 - b1**t) * m / denominator


def _differentiable_denominator(v: Array, hyper: Hyper, t: int) -> Array:
    """Return the denominator with the rate in it, as `differentiable=True` forms it.

    Its scalars come from the step tensor, which is float32 in a float64 run too.
    """
    b1, b2 = hyper["betas"]
    bc1, bc2 = (np.float32(1) - np.float32(b) ** np.float32(t) for b in (b1, b2))
    # A number divided by a tensor is the tensor's reciprocal times the number.
    step_size = np.float32(hyper["lr"]) * (np.float32(1) / bc1)
    eps = np.float32(hyper["eps"]) * (np.float32(1) / step_size)
    return np.sqrt(v) / float(np.sqrt(bc2) * step_size) + float(eps)


def _as_two_reals(x: Array, g: Array, state: dict, hyper: Hyper, t: int) -> Array:
    """Real and imaginary parts are two parameters that know nothing of each other."""
    state.setdefault("real", {}), state.setdefault("imaginary", {})
    real = torch(x.real, g.real, state["real"], hyper, t)
    return real + 1j * torch(x.imag, g.imag, state["imaginary"], hyper, t)


def fused_bfloat16(x: Array, g: Array, state: dict, hyper: Hyper, t: int) -> Array:
    """The fused kernel on bfloat16: one rounding of each array, at its store."""
    x = torch(x, g, state, hyper, t)
    for name, buffer in state.items():
        state[name] = _bfloat16(buffer)
    return _bfloat16(x)


def _bfloat16(x: Array) -> Array:
    """Round to bfloat16's 8 bits of mantissa, ties to even (no subnormals here)."""
    fraction, exponent = np.frexp(x)
    return np.ldexp(np.rint(np.ldexp(fraction, 8)), exponent - 8)


def timm(x: Array, g: Array, state: dict, hyper: Hyper, t: int) -> Array:
    """PyTorch's, with Nesterov, caution, corrected decay, the clip of the update."""
    b1, b2 = hyper["betas"]
    g = -g if hyper["maximize"] else g
    scale = hyper["lr"]
    if hyper["corrected_weight_decay"]:
        scale = hyper["lr"] ** 2 / hyper["max_lr"]
    x = _decay(x, scale * hyper["weight_decay"], hyper)
    m, v = _moments(g, state, b1, b2)
    if hyper["amsgrad"]:
        v = state["nu_max"] = np.maximum(state.get("nu_max", 0.0), v)
    numerator = b1 * m + (1 - b1) * g if hyper["nesterov"] else m
    if hyper["caution"]:
        mask = numerator * g > 0
        numerator = numerator * mask / np.maximum(np.mean(mask), 1e-3)
    denominator = np.sqrt(v) / np.sqrt(1 - b2**t) + hyper["eps"]
    if hyper.get("clipping_threshold") is not None:
        rms = np.sqrt(np.mean((g / denominator) ** 2))
        denominator = denominator * max(1.0, rms / hyper["clipping_threshold"])
    return x - hyper["lr"] / (1 - b1**t) * numerator / denominator


def optimi(x: Array, g: Array, state: dict, hyper: Hyper, t: int) -> Array:
    """The stored moments are the bias-corrected ones: the betas are debiased."""
    b1, b2 = (((b**t - b) / (b**t - 1)) for b in hyper["betas"])
    decay = hyper["lr"] * hyper["weight_decay"]
    if hyper["decouple_lr"]:
        decay = hyper["lr"] / hyper["max_lr"] * hyper["weight_decay"]
    x = _decay(x, decay, hyper)
    m, v = _moments(g, state, b1, b2)
    return x - hyper["lr"] * m / (np.sqrt(v) + hyper["eps"])


def bitsandbytes(x: Array, g: Array, state: dict, hyper: Hyper, t: int) -> Array:
    """The CPU's 32-bit kernel: decay first, epsilon times `sqrt(bc2)`."""
    x = _decay(x, hyper["lr"] * hyper["weight_decay"], hyper)
    return _bitsandbytes_step(x, g, state, hyper, t)


def bitsandbytes_cuda(x: Array, g: Array, state: dict, hyper: Hyper, t: int) -> Array:
    """The CUDA kernel decays the new parameter, so the step too."""
    new = _bitsandbytes_step(x, g, state, hyper, t)
    return _decay(new, hyper["lr"] * hyper["weight_decay"], hyper)


def _bitsandbytes_step(x: Array, g: Array, state: dict, hyper: Hyper, t: int) -> Array:
    b1, b2 = hyper["betas"]
    m, v = _moments(g, state, b1, b2)
    root = np.sqrt(1 - b2**t)
    step_size = hyper["lr"] * root / (1 - b1**t)
    return x - step_size * m / (np.sqrt(v) + hyper["eps"] * root)


def torchao(x: Array, g: Array, state: dict, hyper: Hyper, t: int) -> Array:
    """PyTorch's formula with `beta**t` in float32, in every run."""
    b1, b2 = hyper["betas"]
    bc1, bc2 = (1 - np.float32(np.float32(b) ** np.float32(t)) for b in (b1, b2))
    x = x - hyper["lr"] * hyper["weight_decay"] * x
    m, v = _moments(g, state, b1, b2)
    if hyper["amsgrad"]:
        v = state["nu_max"] = np.maximum(state.get("nu_max", 0.0), v)
    denominator = np.sqrt(v) / np.sqrt(np.float64(bc2)) + hyper["eps"]
    return x - hyper["lr"] * (m / np.float64(bc1)) / denominator
