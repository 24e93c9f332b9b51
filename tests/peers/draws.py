"""Configurations of each peer, drawn at random, with trees and gradients for them."""

from typing import Any

import numpy as np

from tests.peers import streams
from tests.peers.rows import Row
from tests.peers.streams import Stream, Tree
from tests.peers.values import Cosine, Decayed, Exponential, Tensor, ZeroArgument

Outside = dict[str, Any]
Kwargs = dict[str, Any]


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


def shapes(draw: Draw) -> dict[str, tuple[int, ...]]:
    """Leaves of up to 60 elements: a worst case is one of elements, too."""
    found: dict[str, tuple[int, ...]] = {}
    for name in streams.SHAPES:
        shape: tuple[int, ...] = ()
        for _ in range(draw.one_of(0, 1, 1, 2, 2, 3)):
            sizes = [n for n in (1, 2, 3, 5, 7, 17) if n * np.prod(shape) <= 60]
            shape = (*shape, draw.one_of(*sizes))
        found[name] = shape
    return found


def window(row: Row) -> int:
    """The number of gradients in a step."""
    every = row.outside.get("multi_steps", {}).get("every_k_schedule")
    return (
        every
        or row.outside.get("accumulation")
        or row.kwargs.get("gradient_accumulation_steps")
        or 1
    )


def stream(draw: Draw, shapes: dict[str, tuple[int, ...]], window: int) -> Stream:
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
    """The settings around an optimizer of PyTorch's kind."""
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


def torch_single(draw: Draw) -> Row:
    return _torch(draw, foreach=False)


def torch_foreach(draw: Draw) -> Row:
    return _torch(draw, foreach=True)


def torch_fused(draw: Draw) -> Row:
    return _torch(draw, fused=True)


def timm(draw: Draw) -> Row:
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


def optimi(draw: Draw) -> Row:
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


def keras(draw: Draw) -> Row:
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


def tf_keras(draw: Draw) -> Row:
    outside: Outside = {}
    kwargs = _keras_numbers(draw, _clip(draw)) | _average(draw)
    kwargs["jit_compile"] = False
    _excluded(draw, outside, "^b/", "scale")
    return Row("AdamW", kwargs, "float32", draw.steps, outside)


def tfa(draw: Draw) -> Row:
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


def mlx(draw: Draw) -> Row:
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


def optax(draw: Draw) -> Row:
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
