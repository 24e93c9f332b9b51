"""Flax linen: a `TrainState` whose step overwrites the parameters."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from flax.linen.fp8_ops import OVERWRITE_WITH_GRADIENT
from flax.training import train_state

from optadamw.base.types import PyTree
from optadamw.integrations.flush import flush
from optadamw.transforms.step import check_transformation, step


class TrainState(train_state.TrainState):
    """Flax's `TrainState` with an `apply_gradients` that steps in place.

    This subclass of Flax's `TrainState` is created and used in the same way; subclasses
    of it may add fields. With a transformation of this library `apply_gradients` calls
    `tx.step`; with any other Optax transformation it calls `tx.update`, as Flax does.

    The step works in place in a jitted function that donates the state and returns it
    first, because jit pairs donated buffers with results in order of position. No
    temporary of the size of the parameters is then needed:

        @functools.partial(jax.jit, donate_argnums=0)
        def train_step(state, batch):
            loss, grads = jax.value_and_grad(loss_of)(state.params, batch)
            return state.apply_gradients(grads=grads, loss=loss), loss

    Attributes:
      step: number of calls of `apply_gradients`, as in Flax. With accumulation it
        counts micro-batches, including those that a guard dropped; `flush` does not
        change it. The number of optimizer steps, on which schedules and bias
        corrections depend, is `opt_state.step`: with `accumulate_steps=4` and no
        skipped window it is `step // 4`.
      apply_fn: usually the module's `apply`; static.
      params: the parameters.
      tx: any Optax transformation; static.
      opt_state: the state of `tx`.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> from optadamw.integrations.flax_linen import TrainState
      >>> params = {"kernel": jnp.ones(2)}
      >>> state = TrainState.create(
      ...     apply_fn=None, params=params, tx=optadamw.adamw(0.5)
      ... )
      >>> state = state.apply_gradients(grads={"kernel": jnp.ones(2)})
      >>> state.params["kernel"].round(3).tolist(), state.step
      ([0.5, 0.5], 1)
    """

    @classmethod
    def create(cls, *, apply_fn: Any, params: PyTree, tx: Any, **kwargs: Any) -> Self:
        """Make the first state, with the state of `tx` for `params`, as in Flax.

        Args:
          apply_fn: usually the module's `apply`.
          params: the parameters.
          tx: any Optax transformation.
          **kwargs: the fields of a subclass.

        Returns:
          The state, whose `step` is 0.

        Raises:
          TypeError: `tx` is no gradient transformation.
        """
        check_transformation(tx)
        made: Self = super().create(apply_fn=apply_fn, params=params, tx=tx, **kwargs)
        return made

    def apply_gradients(
        self, *, grads: PyTree, weight: Any = None, loss: Any = None, **kwargs: Any
    ) -> Self:
        """Take one step.

        Args:
          grads: the gradients, a tree with the structure of `params`. The collection
            `_overwrite_with_gradient` of Flax's fp8 layers replaces its parameters, as
            in Flax.
          weight: weight of a micro-batch, such as its number of tokens, passed to the
            transformation. None (default): it is not passed.
          loss: the loss of the batch, passed to the transformation. None (default): it
            is not passed.
          **kwargs: new values for fields of a subclass, as in Flax.

        Returns:
          The state with `params` and `opt_state` after the step, and `step` + 1.

        Raises:
          TypeError: a keyword is no field; or `weight` or `loss` is passed and is also
            a field of the subclass.
          ValueError, TypeError: a gradient does not fit its parameter; the message has
            the path.
        """
        given = {"weight": weight, "loss": loss}
        extra = {name: value for name, value in given.items() if value is not None}
        self._refuse_fields(extra)
        trained, overwritten = _divided(grads)
        params, opt_state = step(
            self.tx, trained, self.opt_state, _divided(self.params)[0], **extra
        )
        return self.replace(
            step=self.step + 1,
            params=_joined(params, overwritten),
            opt_state=opt_state,
            **kwargs,
        )

    def flush(self) -> Self:
        """Apply the gradients of a window that is not full, after the last batch.

        Returns:
          The state with new `params` and `opt_state`, and with the same `step`.

        Raises:
          TypeError: `tx` is not from this library.
        """
        trained, overwritten = _divided(self.params)
        params, opt_state = flush(self.tx, self.opt_state, trained)
        return self.replace(params=_joined(params, overwritten), opt_state=opt_state)

    def _refuse_fields(self, extra: dict[str, Any]) -> None:
        """Refuse extra arguments that are also fields, which would not be replaced."""
        for field in dataclasses.fields(self):
            if field.name in extra:
                raise TypeError(
                    f"`{field.name}` goes to the transformation, and "
                    f"{type(self).__name__} has a field of that name, which would not "
                    "be replaced. Rename the field, or set it with .replace()."
                )


def _divided(tree: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
    """Divide a tree into trained leaves and those overwritten by their gradients."""
    if not isinstance(tree, Mapping) or OVERWRITE_WITH_GRADIENT not in tree:
        return tree, {}
    return tree["params"], {OVERWRITE_WITH_GRADIENT: tree[OVERWRITE_WITH_GRADIENT]}


def _joined(trained: PyTree, overwritten: dict[str, PyTree]) -> PyTree:
    return {"params": trained, **overwritten} if overwritten else trained
