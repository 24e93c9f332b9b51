"""Flax NNX: an `nnx.Optimizer` whose step overwrites the parameters."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from optadamw.base.errors import mistyped
from optadamw.base.types import PyTree
from optadamw.integrations.flush import flush
from optadamw.transforms.step import check_transformation, step

_M = TypeVar("_M")


class Optimizer(nnx.Optimizer[_M]):
    """`flax.nnx.Optimizer` with an `update` that steps in place.

    This subclass of `flax.nnx.Optimizer` is created and used in the same way:
    `isinstance`, `nnx.state`, `nnx.split`, `nnx.jit`, checkpoints and sharding metadata
    see no difference, and each of the two restores checkpoints of the other. With a
    transformation of this library `update` calls `tx.step`; with any other Optax
    transformation it calls `tx.update`, as Flax does.

    The step works in place in a jitted function that donates model and optimizer: an
    update then needs no temporary of the size of the parameters. Model and optimizer
    may be arguments in any order, because `nnx.jit` returns its arguments before the
    result, in their order:

        @nnx.jit(donate_argnums=(0, 1))
        def train_step(model, optimizer, batch):
            loss, grads = nnx.value_and_grad(loss_of)(model, batch)
            optimizer.update(model, grads, loss=loss)
            return loss

    The state `optimizer.opt_state` holds Variables; functions of this library need
    arrays: `optadamw.ema_of(nnx.as_pure(optimizer.opt_state))`.

    Args:
      model: an NNX module.
      tx: any Optax transformation.
      wrt: the filter of the Variables that are trained, as for `nnx.grad`.
      graph: see `flax.nnx.Optimizer`.

    Attributes:
      step: number of calls of `update`, uint32, as in Flax. The number of optimizer
        steps is `opt_state.step`; it is smaller with accumulation or skipped steps.
      tx: the transformation.
      opt_state: the state of `tx`; every buffer has the metadata of its parameter.

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

    Raises:
      TypeError: `tx` is no gradient transformation.
    """

    def __init__(self, model: _M, tx: Any, **options: Any) -> None:
        check_transformation(tx)
        super().__init__(model, tx, **options)

    def update(self, model: _M, grads: PyTree, /, **extra: Any) -> PyTree:
        """Take one step: overwrite the model's parameters and the state.

        Args:
          model: the module; its Variables that match `wrt` are replaced.
          grads: the gradients that `nnx.grad` returned for this module.
          **extra: passed to the transformation; those of this library read `loss=`, the
            loss of the batch, and `weight=`, the weight of a micro-batch.

        Returns:
          The change of the parameters, as in Flax. Under `nnx.jit` an unused result
          costs nothing; a used one needs the memory of the old parameters.

        Raises:
          TypeError: `model` and `grads` are exchanged, or `grads` is no tree, such as
            the loss.
          ValueError, TypeError: a gradient does not fit its parameter; the message has
            the path.
          ValueError: `wrt` matches no Variable of the model, so nothing would train.
        """
        # Exchanged arguments would train the gradients with the parameters, unnoticed.
        if isinstance(model, nnx.State) and not isinstance(grads, nnx.State):
            raise TypeError(
                "`model` must be the module; got a State, with "
                f"{type(grads).__name__} as `grads`. Call "
                "optimizer.update(model, grads)."
            )
        if jax.tree_util.all_leaves([grads]):
            rule = "the gradients that nnx.grad returned"
            remedy = "nnx.value_and_grad returns (loss, grads)."
            raise mistyped("grads", rule, grads, remedy)
        before = self._pure(model)
        if not jax.tree.leaves(before):
            raise ValueError(
                f"`wrt` matches no Variable of the model; got {self.wrt!r}. Give a "
                "filter of the Variables that train, such as nnx.Param."
            )
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
        """Apply the gradients of a window that is not full, after the last batch.

        `step` does not change, because it counts the calls of `update`.

        Args:
          model: the module; its Variables that match `wrt` are replaced.

        Raises:
          TypeError: `tx` is not from this library.
        """
        params, state = flush(self.tx, nnx.as_pure(self.opt_state), self._pure(model))
        self._replace(model, params, state)

    def _pure(self, node: Any) -> PyTree:
        return nnx.as_pure(nnx.state(node, self.wrt, graph=self.graph))

    def _replace(self, model: _M, params: PyTree, state: PyTree) -> None:
        nnx.update(model, params)
        nnx.update(self.opt_state, nnx.state(state, graph=self.graph))
