"""Flax NNX: `nnx.Optimizer`, writing over the parameters."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from optadamw.base.types import PyTree
from optadamw.integrations.flush import flush
from optadamw.transforms.step import step

_M = TypeVar("_M")


class Optimizer(nnx.Optimizer[_M]):
    """`flax.nnx.Optimizer` whose `update` takes the step that works in place.

    It is made and used as Flax's own and *is* one: `isinstance`, `nnx.state`,
    `nnx.split`, `nnx.jit`, checkpoints and sharding metadata see no difference, and
    what one has saved the other restores. With a transformation of this library
    `update` calls `tx.step`; any other Optax transformation takes its own `update`,
    as in Flax.

    In place means: in a function that donates the model and the optimizer, an update
    needs no temporary of the size of the parameters. `nnx.jit` returns its arguments
    before the result and in their order, so they may stand in any order:

        @nnx.jit(donate_argnums=(0, 1))
        def train_step(model, optimizer, batch):
            loss, grads = nnx.value_and_grad(loss_of)(model, batch)
            optimizer.update(model, grads, loss=loss)
            return loss

    The optimizer's state is `optimizer.opt_state`, in Variables; functions of this
    library take it as arrays: `optadamw.ema_of(nnx.as_pure(optimizer.opt_state))`.

    Args:
      model: an NNX module.
      tx: any Optax transformation.
      wrt: which Variables are trained, the filter that `nnx.grad` is given.
      graph: see `flax.nnx.Optimizer`.

    Attributes:
      step: calls of `update`, uint32, as in Flax. Optimizer steps are counted in
        `opt_state.step`: under accumulation or a guard there are fewer of them.
      tx: the transformation.
      opt_state: its state; every buffer has the metadata of its parameter.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> from flax import nnx
      >>> from optadamw.integrations.flax_nnx import Optimizer
      >>> model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
      >>> optimizer = Optimizer(model, optadamw.adamw(0.5), wrt=nnx.Param)
      >>> grads = nnx.grad(lambda model: model(jnp.ones(2))[0])(model)
      >>> _ = optimizer.update(model, grads)
      >>> model.bias[...].round(3).tolist(), int(optimizer.step[...])
      ([-0.5], 1)
    """

    def update(self, model: _M, grads: PyTree, /, **extra: Any) -> PyTree:
        """Take one step: write the model's parameters and the state over.

        Args:
          model: the module; its Variables under `wrt` are replaced.
          grads: what `nnx.grad` of it returned.
          **extra: passed to the transformation: `loss=` of the batch and `weight=` of
            a micro-batch, for those of this library.

        Returns:
          By how much the parameters changed, as Flax does. Under `nnx.jit` it costs
          nothing if it is not used; a use keeps the old parameters alive.

        Raises:
          TypeError: the gradients stand in the model's place.
          ValueError, TypeError: gradients that do not fit, by path.
        """
        # Swapped, the gradients would be trained towards the parameters in silence.
        if isinstance(model, nnx.State) and not isinstance(grads, nnx.State):
            raise TypeError(
                "`model` must be the module; got a State, with "
                f"{type(grads).__name__} as `grads`. Call "
                "optimizer.update(model, grads)."
            )
        before = self._pure(model)
        after, state = step(
            self.tx,
            self._pure(grads),
            nnx.as_pure(self.opt_state),
            before,
            **nnx.as_pure(extra),
        )
        self._replace(model, after, state)
        self.step[...] += 1
        return jax.tree.map(jnp.subtract, after, before)

    def flush(self, model: _M, /) -> None:
        """Apply a partial window of accumulated gradients, as after the last batch.

        `step` does not count it: it is no call of `update`.

        Args:
          model: the module; its Variables under `wrt` are replaced.

        Raises:
          TypeError: `tx` is of another library.
        """
        params, state = flush(self.tx, nnx.as_pure(self.opt_state), self._pure(model))
        self._replace(model, params, state)

    def _pure(self, node: Any) -> PyTree:
        return nnx.as_pure(nnx.state(node, self.wrt, graph=self.graph))

    def _replace(self, model: _M, params: PyTree, state: PyTree) -> None:
        nnx.update(model, params)
        nnx.update(self.opt_state, nnx.state(state, graph=self.graph))
