"""FlashOptim for JAX, as it is installed (`flashoptim-jax`, arXiv 2602.23349).

Its fused kernels need a GPU. Its unfused step writes a bfloat16 parameter as the old
one and a rounded difference, which can miss the number to which the 8 bits of the
master copy belong. The kernels write that number itself, and so does this: the step
runs on the float32 master, which the package's own functions put together and split.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.precision.problem import Params, raised

_MASTER_BITS = 24


class FlashSession:
    """Parameters, the rest of their master copy, and the state of `flash_adamw`."""

    def __init__(self, step: Any, init: Any, params: Params) -> None:
        """Begins at copies, as the step donates what it is given."""
        from flashoptim_jax import set_fp32_params

        self._step = step
        whole = jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params)
        self.params, errors = set_fp32_params(whole, params, _MASTER_BITS)
        self.rest = errors, init(whole)

    def step(self, gradients: Params) -> None:
        self.params, self.rest = self._step(self.params, self.rest, gradients)

    def parameters(self) -> Params:
        return self.params

    def kept_bytes(self) -> int:
        return sum(a.nbytes for a in jax.tree.leaves((self.params, self.rest)))

    def second_moment(self) -> np.ndarray:
        from flashoptim_jax import QuantizedArray, dequantize_variance

        (nu,) = jax.tree.leaves(
            self.rest[1].nu, is_leaf=lambda x: isinstance(x, QuantizedArray)
        )
        return np.asarray(dequantize_variance(nu))


def prepare(rate: optax.Schedule, hyperparameters: dict[str, float], seed: int) -> Any:
    """Makes `flash_adamw` with 8-bit moments, its default; nothing is random in it."""
    from flashoptim_jax import flash_adamw, reconstruct_weights, set_fp32_params

    del seed
    tx = flash_adamw(rate, **hyperparameters, master_weight_bits=None, fused=False)

    def take(params: Params, rest: Any, gradients: Params) -> Any:
        errors, state = rest
        whole = reconstruct_weights(params, errors)
        whole, state = tx.step(whole, state, raised(gradients))
        params, errors = set_fp32_params(whole, params, _MASTER_BITS)
        return params, (errors, state)

    step = jax.jit(take, donate_argnums=(0, 1))
    return lambda params: FlashSession(step, tx.init, params)
