"""The compared ways to keep parameters and moments, by name.

Every contender gets the same schedule, betas, epsilon and decay, and gradients that
JAX computed in the dtype in which it keeps its parameters: those that keep bfloat16
see bfloat16 gradients, as `jax.grad` gives them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optadamw
from benchmarks.precision import flash, peers
from benchmarks.precision.problem import Params

HYPERPARAMETERS: dict[str, float] = {
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-8,
    "weight_decay": 0.1,
}


class Session(Protocol):
    """One run: parameters and an optimizer that has begun."""

    def step(self, gradients: Params) -> None:
        """Takes one step."""

    def parameters(self) -> Params:
        """The parameters as they are kept."""

    def kept_bytes(self) -> int:
        """Return parameters and state as they lie in memory between steps."""

    def second_moment(self) -> np.ndarray:
        """The second moment of the only parameter, decoded."""


Start = Callable[[Params], Session]


@dataclass(frozen=True)
class Contender:
    """A way to keep parameters and moments."""

    kept: str
    """The dtype of the parameters."""
    what: str
    """How it is called, for the report."""
    prepare: Callable[[optax.Schedule, dict[str, float], int], Start] = field(
        repr=False
    )
    """Makes the optimizer, with a seed; every start of it is a run of its own."""
    draws: bool = False
    """Whether it rounds at random, so that each run needs a seed of its own."""


class JaxSession:
    """An Optax transformation."""

    def __init__(self, tx: Any, step: Callable[..., Any], params: Params) -> None:
        """Begins at copies, as the step donates what it is given."""
        self._step = step
        self.params = jax.tree.map(lambda p: jnp.array(p, copy=True), params)
        self.state = tx.init(self.params)

    def step(self, gradients: Params) -> None:
        self.params, self.state = self._step(self.params, self.state, gradients)

    def parameters(self) -> Params:
        return self.params

    def kept_bytes(self) -> int:
        return sum(a.nbytes for a in jax.tree.leaves((self.params, self.state)))

    def second_moment(self) -> np.ndarray:
        state = self.state
        if isinstance(state, optadamw.State):
            state = optadamw.dequantize(state)
        (nu,) = jax.tree.leaves(optax.tree.get(state, "nu"))
        return np.asarray(nu, np.float32)


def _started(tx: Any, take: Callable[..., Any]) -> Start:
    step = jax.jit(take, donate_argnums=(0, 1))
    return lambda params: JaxSession(tx, step, params)


def _ours(
    kept: str, what: str, options: dict[str, Any], *, draws: bool = False
) -> Contender:
    def prepare(
        rate: optax.Schedule, hyperparameters: dict[str, float], seed: int
    ) -> Start:
        seeded = {"seed": seed} if draws else {}
        tx = optadamw.adamw(rate, **hyperparameters, **options, **seeded)

        def take(params: Params, state: Any, gradients: Params) -> Any:
            return tx.step(gradients, state, params)

        return _started(tx, take)

    return Contender(kept, f"optadamw.adamw({what})", prepare, draws)


def _optax(kept: str) -> Contender:
    def prepare(
        rate: optax.Schedule, hyperparameters: dict[str, float], seed: int
    ) -> Start:
        del seed
        tx = optax.adamw(rate, **hyperparameters)

        def take(params: Params, state: Any, gradients: Params) -> Any:
            updates, state = tx.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        return _started(tx, take)

    return Contender(kept, "optax.adamw()", prepare)


def _peer(kept: str, what: str, make: peers.Make) -> Contender:
    def prepare(
        rate: optax.Schedule, hyperparameters: dict[str, float], seed: int
    ) -> Start:
        return lambda params: peers.TorchSession(
            make, params, rate, hyperparameters, seed
        )

    return Contender(kept, what, prepare)


def _torchao(kept: str, name: str, **options: Any) -> Contender:
    said = ", ".join(f"{option}={value}" for option, value in options.items())
    what = f"torchao.optim.{name}({said})"
    return _peer(kept, what, peers.torchao(name, **options))


_LOW, _HIGH = "bfloat16", "float32"
_EIGHT, _SIXTEEN = optadamw.blockwise(), optadamw.stochastic("bfloat16")

OURS = {
    "full": _ours(_HIGH, 'precision="full"', {"precision": "full"}),
    "mixed": _ours(_LOW, 'precision="mixed"', {"precision": "mixed"}),
    "compact": _ours(_LOW, 'precision="compact"', {"precision": "compact"}, draws=True),
    "8-bit moments": _ours(
        _HIGH,
        "both moments blockwise()",
        {"mu_dtype": _EIGHT, "nu_dtype": _EIGHT},
        draws=True,
    ),
    "compact 24 bits": _ours(
        _LOW,
        'precision="compact", commit="master", residual_bits=8',
        {"precision": "compact", "commit": "master", "residual_bits": 8},
        draws=True,
    ),
    "bf16 stochastic moments": _ours(
        _HIGH,
        'both moments stochastic("bfloat16")',
        {"mu_dtype": _SIXTEEN, "nu_dtype": _SIXTEEN},
        draws=True,
    ),
    "bf16 stochastic": _ours(
        _LOW, 'commit="stochastic"', {"commit": "stochastic"}, draws=True
    ),
    "kahan": _ours(_LOW, 'commit="kahan"', {"commit": "kahan"}),
    "bf16 nearest": _ours(_LOW, "", {}),
}

CONTENDERS = {
    **OURS,
    "optax fp32": _optax(_HIGH),
    "optax bf16": _optax(_LOW),
    "torch fp32": _peer(_HIGH, "torch.optim.AdamW()", peers.torch_adamw),
    "torchao 8-bit": _peer(
        _HIGH, "torchao.optim.AdamW8bit", peers.torchao("AdamW8bit")
    ),
    "torchao fp8": _torchao(_HIGH, "AdamWFp8"),
    "torchao 4-bit": _peer(
        _HIGH, "torchao.optim.AdamW4bit", peers.torchao("AdamW4bit")
    ),
    "torchao 8-bit bf16": _torchao(_LOW, "AdamW8bit", bf16_stochastic_round=True),
    "bitsandbytes 8-bit": _peer(
        _HIGH, "bitsandbytes.optim.AdamW8bit()", peers.bitsandbytes
    ),
    "FlashOptim": Contender(
        _HIGH, "flashoptim_jax.flash_adamw(fused=False)", flash.prepare
    ),
    "FlashOptim 24 bits": Contender(
        _LOW,
        "flashoptim_jax.flash_adamw(fused=False), master_weight_bits=24",
        flash.prepare,
    ),
}

BASE = "full"
"""Whom all are compared with, seed by seed."""
