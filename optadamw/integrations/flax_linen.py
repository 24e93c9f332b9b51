"""Flax linen: `TrainState`, writing over the parameters."""

import dataclasses
from typing import Any, Self

import jax
from flax.linen.fp8_ops import OVERWRITE_WITH_GRADIENT
from flax.training import train_state

from optadamw.base.types import PyTree
from optadamw.integrations.flush import flush
from optadamw.transforms.step import step


class TrainState(train_state.TrainState):
    """Flax's `TrainState` whose `apply_gradients` takes the step that works in place.

    It is made and used as Flax's own and *is* one; subclasses may add fields. With a
    transformation of this library `apply_gradients` calls `tx.step`; any other Optax
    transformation takes its own `update`, as in Flax.

    In place means: in a jitted function that takes and returns the state and donates
    it, no temporary of the size of the parameters is needed. The state stands before
    other results, as jit pairs donated buffers with results in order of position:

        @functools.partial(jax.jit, donate_argnums=0)
        def train_step(state, batch):
            loss, grads = jax.value_and_grad(loss_of)(state.params, batch)
            return state.apply_gradients(grads=grads, loss=loss), loss

    Attributes:
      step: calls of `apply_gradients`, from 0, as Flax users expect: with
        accumulation it counts micro-batches, also those that a guard dropped, and
        `flush` does not move it. Optimizer steps, which schedules and bias
        corrections see, are counted in `opt_state.step`: with `accumulate_steps=4`
        and no skipped window, `step // 4`.
      apply_fn: usually the module's `apply`; static.
      params: the parameters.
      tx: any Optax transformation; static.
      opt_state: its state.

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

    def apply_gradients(
        self, *, grads: PyTree, weight: Any = None, loss: Any = None, **kwargs: Any
    ) -> Self:
        """Take one step.

        Args:
          grads: gradients, a tree like `params`. A collection of Flax's fp8 layers,
            `_overwrite_with_gradient`, replaces its parameters, as in Flax.
          weight: weight of a micro-batch, such as its number of tokens; it goes to the
            transformation. None: not given.
          loss: the loss of the batch; it goes to the transformation. None: not given.
          **kwargs: fields of a subclass that are replaced, as in Flax.

        Returns:
          The state with `params` and `opt_state` after the step, and `step` + 1.

        Raises:
          TypeError: a keyword that is no field; a field of a subclass that is called
            `weight` or `loss`, if that keyword is given.
          ValueError, TypeError: gradients that do not fit, by path.
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
        """Apply a partial window of accumulated gradients, as after the last batch.

        Returns:
          The state with `params` and `opt_state` after it; `step` is as it was.

        Raises:
          TypeError: `tx` is of another library.
        """
        trained, overwritten = _divided(self.params)
        params, opt_state = flush(self.tx, self.opt_state, trained)
        return self.replace(params=_joined(params, overwritten), opt_state=opt_state)

    def _refuse_fields(self, extra: dict[str, Any]) -> None:
        """A field of that name would be left as it is, in silence."""
        for field in dataclasses.fields(self):
            if field.name in extra:
                raise TypeError(
                    f"`{field.name}` goes to the transformation, and "
                    f"{type(self).__name__} has a field of that name, which would not "
                    "be replaced. Rename the field, or set it with .replace()."
                )


def _divided(tree: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
    """What is trained, and what fp8 layers overwrite with its gradient."""
    if isinstance(tree, jax.Array) or OVERWRITE_WITH_GRADIENT not in tree:
        return tree, {}
    return tree["params"], {OVERWRITE_WITH_GRADIENT: tree[OVERWRITE_WITH_GRADIENT]}


def _joined(trained: PyTree, overwritten: dict[str, PyTree]) -> PyTree:
    return {"params": trained, **overwritten} if overwritten else trained
