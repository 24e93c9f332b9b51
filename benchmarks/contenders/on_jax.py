"""The session shared by the contenders on JAX: one jitted step, its carry donated."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contenders.contender import Contender, Program
from benchmarks.reference import OURS, Conventions
from benchmarks.workloads import Config, sample


def contender(
    program: Callable[[Config, Any], Program],
    conventions: Conventions = OURS,
    dtype: str = "float32",
) -> Contender:
    """Makes a contender of a function that makes its program."""
    session = functools.partial(JaxSession, program, dtype=dtype)
    return Contender(session, program, conventions, dtype=dtype)


class JaxSession:
    """A jitted step with its gradients and its carry."""

    def __init__(
        self,
        program: Callable[[Config, Any], Program],
        config: Config,
        tree: Any,
        parameters: Iterable[np.ndarray],
        dtype: str = "float32",
    ) -> None:
        """Puts the parameters on the device and initializes the state."""
        self._dtype = dtype
        self._treedef = jax.tree.structure(tree)
        self._program = program(config, tree)
        self._step = jax.jit(self._program.step, donate_argnums=1)
        self._carry = self._program.init(self._put(parameters))
        self._gradients: Any = None

    def load(self, gradients: Iterable[np.ndarray]) -> None:
        """Puts the gradients of the following steps on the device."""
        self._gradients = self._put(gradients)

    def move(self) -> None:
        """Copies gradients and carry to newly allocated memory."""
        held = self._gradients, self._carry
        self._gradients, self._carry = jax.tree.map(jnp.copy, held)

    def step(self) -> None:
        """Dispatches one step."""
        self._carry = self._step(self._gradients, self._carry)

    def wait(self) -> None:
        """Waits for every array of the carry."""
        jax.block_until_ready(self._carry)

    def parameters(self) -> list[np.ndarray]:
        """Copies the sampled elements of each parameter to the host."""
        return _sampled(self._program.parameters(self._carry))

    def average(self) -> list[np.ndarray]:
        """Copies the sampled elements of each parameter's moving average."""
        return _sampled(self._program.average(self._carry))

    def _put(self, arrays: Iterable[np.ndarray]) -> Any:
        # Copied: on the CPU an array that shares NumPy's memory cannot be donated.
        leaves = [jnp.array(array, self._dtype, copy=True) for array in arrays]
        return jax.block_until_ready(self._treedef.unflatten(leaves))


def _sampled(tree: Any) -> list[np.ndarray]:
    # The copy matters again: a view held by NumPy would make the next step copy too.
    return [np.array(sample(leaf), copy=True) for leaf in jax.tree.leaves(tree)]
