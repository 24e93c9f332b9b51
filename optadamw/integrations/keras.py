"""Keras 3 on JAX: an optimizer for `compile` and `fit` that takes the step of `tx`."""

import warnings
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Self

import jax.numpy as jnp
import keras
import numpy as np

from optadamw.base.errors import invalid, mistyped
from optadamw.base.types import Array
from optadamw.integrations.expression import read_call, text_of
from optadamw.integrations.keras_average import WithAverage
from optadamw.integrations.keras_files import WithFields
from optadamw.integrations.keras_options import WithOptionsInTx
from optadamw.integrations.keras_paths import have_kept_paths, is_loading
from optadamw.integrations.keras_variables import Kept, check_constraints
from optadamw.integrations.rates import adjustable_rate, plain_rate, rate_of, with_rate
from optadamw.store.state import State
from optadamw.transforms.transformation import Transformation
from optadamw.transforms.with_loss_scale import scale_loss


def _no_transformation(tx: Any) -> TypeError:
    remedy = (
        "A chain of Optax, or a call of Keras with bug_compatible=True, an average and "
        "accumulation, has a state of several parts: use it in a loop of your own."
    )
    remedy = remedy if hasattr(tx, "update") else ""
    return mistyped("tx", "a transformation of optadamw", tx, remedy)


@keras.saving.register_keras_serializable(package="optadamw")
class Optimizer(WithAverage, WithFields, WithOptionsInTx, keras.optimizers.Optimizer):
    """A Keras optimizer that takes the step of a transformation of this library.

    `model.compile(optimizer=Optimizer(tx))` and `model.fit` then train with everything
    that `tx` does: accumulation, guards, loss scale, average, 8-bit moments, groups.
    The parameters are a dict by the paths of Keras's variables, such as
    "sequential/dense/kernel", so `mask="*/kernel"` and `groups={"*/bias": ...}` choose
    them by pattern.

    - Every array of the State is a Keras variable beside its parameter, so that
      `.keras` files, `save_weights` and `keras.distribution` treat it like Keras's own.
    - `learning_rate` is a variable if the rate of `tx` is a number: callbacks such as
      `ReduceLROnPlateau` and `LearningRateScheduler` set it, and the rates of groups
      change by the same factor, also those that are schedules. If the rate of `tx` is
      0, there is no factor, and groups keep their own rates. A rate that is
      `adjustable` is set in the State. A schedule is shown and cannot be set.
    - `fit` multiplies the loss by the loss scale of `tx`, and at its end writes the
      average of the parameters into the model if `tx` has `ema_decay`. The callback
      `SwapEMAWeights` evaluates and saves the model with the average.
    - A model with the policy "mixed_float16" is wrapped in Keras's
      `LossScaleOptimizer`. If `tx` has a loss scale of its own, this is refused: pass
      `compile(..., auto_scale_loss=False)`.

    Source: the contract of keras 3.15.1, `optimizers/base_optimizer.py`.
    Differs from Keras's optimizers: `clipnorm`, `use_ema`, `weight_decay` and their
    like are options of `tx` and cannot be set; `iterations` counts optimizer steps that
    were taken.

    Attributes:
      tx: the transformation.
      state: the State as it is now, for `stats_of`, `ema_of` and `describe`.

    Example:
      >>> import keras, numpy as np, optadamw
      >>> from optadamw.integrations.keras import Optimizer
      >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
      >>> tx = optadamw.adamw(0.01, mask="*/kernel", clip_global_norm=1.0)
      >>> model.compile(optimizer=Optimizer(tx), loss="mse")
      >>> x = np.ones((8, 3), np.float32)
      >>> history = model.fit(x, x[:, :1], epochs=2, verbose=0)
      >>> int(model.optimizer.state.step)
      2
    """

    def __init__(
        self,
        tx: Transformation,
        learning_rate: float | None = None,
        name: str = "optadamw",
    ):
        """Make the optimizer.

        Args:
          tx: a transformation of this library with a learning rate.
          learning_rate: a rate in place of the number in `tx`. None (default): that of
            `tx`.
          name: the name of the optimizer. Default: "optadamw".

        Raises:
          RuntimeError: Keras has another backend than JAX.
          TypeError, ValueError: `tx` is not from this library or has no learning rate,
            or `learning_rate` is given for a `tx` with a schedule.
        """
        if (backend := keras.backend.backend()) != "jax":
            raise RuntimeError(
                "optadamw.integrations.keras needs the JAX backend of Keras; got "
                f"{backend!r}. Set the environment variable KERAS_BACKEND=jax before "
                "keras is imported."
            )
        if not isinstance(tx, Transformation):
            raise _no_transformation(tx)
        rate_of(tx)
        super().__init__(learning_rate=_unused, name=name)
        self._kept = kept = Kept(tx, plain_rate(tx))
        if kept.rate is not None:
            self._learning_rate = self.add_variable(
                shape=(),
                initializer=keras.initializers.Constant(kept.rate),
                dtype="float32",
                aggregation="only_first_replica",
                name="learning_rate",
            )
        if learning_rate is not None:
            self.learning_rate = learning_rate

    # --- The state, as variables ------------------------------------------------------

    def build(self, variables: Sequence[Any]) -> None:
        """Make a variable for each array of the State of these model variables.

        Raises:
          ValueError: `tx` is schedule-free, and a variable has a constraint, which
            would have no effect.
        """
        if self.built:
            return
        overwritten = self._overwrite_variable_with_gradient
        trained = [variable for variable in variables if not overwritten(variable)]
        check_constraints(self._kept.tx, trained)
        super().build(list(variables))
        self._kept.build(trained, self.add_variable)

    @property
    def tx(self) -> Transformation:
        """The transformation that was given."""
        return self._kept.tx

    @property
    def state(self) -> State:
        """The State as it is now; its trees are dicts by the paths of the variables."""
        self._check_built()
        return self._kept.state

    def set_state(self, state: State) -> None:
        """Go on from a State of `tx`, such as that of `from_keras`, once built."""
        self._check_built()
        self._kept.replace(state)

    @property
    def iterations(self) -> Array:
        """The number of optimizer steps that were taken."""
        return self.state.step if self.built else self._iterations

    def _check_built(self) -> None:
        if not self.built:
            raise ValueError(
                f"The optimizer '{self.name}' has no state yet. Call "
                "model.fit, or optimizer.build(model.trainable_variables)."
            )

    # --- A step -----------------------------------------------------------------------

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Take a step with gradients, which may be None, in the order of the variables.

        Raises:
          ValueError: there is no gradient at all, or their number is not that of the
            variables.
        """
        grads = list(grads)
        if not grads:
            return
        if trainable_variables is None:
            self._check_built()
            variables = list(self._trainable_variables)
        else:
            variables = list(trainable_variables)
            self.build(variables)
            self._check_variables_are_known(variables)
        if len(grads) != len(variables):
            raise ValueError(
                f"`grads` must have a gradient for each of {len(variables)} variables; "
                f"got {len(grads)}."
            )
        missing = [v.path for g, v in zip(grads, variables, strict=True) if g is None]
        if len(missing) == len(grads):
            raise ValueError("No gradients provided for any variable.")
        if missing:
            warnings.warn(
                f"Gradients do not exist for variables {missing} when minimizing the "
                "loss. If you use `model.compile()`, did you forget the argument "
                "`loss`?",
                stacklevel=2,
            )
        given = {id(v): g for g, v in zip(grads, variables, strict=True)}
        for variable in variables:
            value = given[id(variable)]
            if self._overwrite_variable_with_gradient(variable) and value is not None:
                variable.assign(value)
        trained = self._kept.trained
        gradients = OrderedDict((k, given.get(id(v))) for k, v in trained.items())
        if any(gradient is not None for gradient in gradients.values()):
            now = self._current()
            self._kept.write(*now.step(gradients, self.state, self._kept.values()))
        for variable in trained.values():
            if variable.constraint is not None:
                variable.assign(variable.constraint(variable.value))
        self._iterations.assign_add(1)

    def _current(self) -> Transformation:
        """The transformation with the learning rate that the variable holds."""
        kept = self._kept
        if kept.rate is None:
            return kept.tx
        return with_rate(kept.tx, jnp.asarray(self._learning_rate.value))

    def flush(self) -> None:
        """Take the step of a window of accumulation that is not full, after `fit`."""
        params, state = self._current().flush(self.state, self._kept.values())
        self._kept.write(params, state)

    def scale_loss(self, loss: Any) -> Any:
        """Multiply the loss by the loss scale of `tx`, if it has one."""
        if not self.built or self.state.loss_scale is None:
            return loss
        return scale_loss(self.state, loss)

    # --- The learning rate ------------------------------------------------------------

    @property
    def learning_rate(self) -> Any:
        """The learning rate: a variable, or the value in the coming step."""
        if self._kept.rate is not None:
            return self._learning_rate
        rate = rate_of(self._kept.tx).at(self._kept.clock)
        return jnp.asarray(rate, jnp.float32)

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        kept, adjustable = self._kept, adjustable_rate(self._kept.tx)
        if kept.rate is None and adjustable is None:
            raise TypeError(
                "`learning_rate` cannot be set: it is the schedule "
                f"{rate_of(kept.tx)!r} of `tx`. Leave the callback out, or make `tx` "
                "with a number."
            )
        if callable(learning_rate) and not hasattr(learning_rate, "dtype"):
            remedy = "Make `tx` with a schedule: optadamw.adamw(schedule)."
            raise mistyped("learning_rate", "a number", learning_rate, remedy)
        try:
            number = float(np.asarray(learning_rate))
        except (TypeError, ValueError):
            raise mistyped("learning_rate", "a number", learning_rate) from None
        if not 0 <= number <= float(np.finfo(np.float32).max):
            raise invalid("learning_rate", "finite and >= 0, also in float32", number)
        if adjustable is None:
            self._learning_rate.assign(number)
        else:
            kept.adjust(adjustable, number)

    # --- Files ------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Return the call that made `tx` as text, the learning rate and the name.

        An optimizer that is built adds the paths of its variables, which patterns in
        `tx` choose by: Keras leaves out the name of a Sequential that it loads.

        Raises:
          ValueError: an argument of `tx` is a function or an array with axes.
        """
        kept = self._kept
        rate = None if kept.rate is None else float(np.asarray(self._learning_rate))
        config = {"name": self.name, "tx": text_of(kept.tx), "learning_rate": rate}
        if kept.trained:
            config["paths"] = list(kept.trained)
            config["loaded"] = have_kept_paths(kept.trained.values())
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        """Make the optimizer of a config that `get_config` returned."""
        del custom_objects
        own = ("paths", "loaded")
        given = {key: value for key, value in config.items() if key not in own}
        made = cls(**{**given, "tx": read_call(config["tx"])})
        made._kept.loads = is_loading()
        if made._kept.loads or not config.get("loaded"):
            made._kept.paths = tuple(config.get("paths", ()))
        return made


def _unused() -> float:
    """Stand for the learning rate until the class has made its own variable."""
    return 0.0
