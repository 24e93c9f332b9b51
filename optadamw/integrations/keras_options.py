"""The options of Keras's optimizers that are options of `tx` here."""

from typing import Any

from optadamw.integrations.keras_variables import Kept

IN_TX = {
    "beta_1": "b1",
    "beta_2": "b2",
    "epsilon": "eps",
    "amsgrad": "amsgrad",
    "weight_decay": "weight_decay",
    "clipnorm": "clip_norm",
    "clipvalue": "clip_value",
    "global_clipnorm": "clip_global_norm",
    "use_ema": "ema_decay",
    "ema_momentum": "ema_decay",
    "ema_overwrite_frequency": "ema_overwrite_every",
    "gradient_accumulation_steps": "accumulate_steps",
}
"""The arguments of `adamw` that stand for attributes of Keras's optimizers."""


class WithOptionsInTx:
    """The methods of a Keras optimizer that refuse to set an option of `tx`."""

    _kept: Kept

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, unless Keras's optimizers have it and `tx` decides on it.

        Raises:
          TypeError: it is one of those, and the value another than that of Keras.
        """
        # Keras sets all of them when it makes the optimizer.
        if name in IN_TX and "_kept" in self.__dict__:
            old = getattr(self, name, None)
            if value is not old and (type(value) is not type(old) or value != old):
                raise TypeError(
                    f"`{name}` cannot be set: it is an option of `tx`, and would have "
                    f"no effect. Make `tx` with optadamw.adamw(..., {IN_TX[name]}=...)."
                )
        super().__setattr__(name, value)

    @property
    def loss_scale_factor(self) -> None:
        """None: the loss scale is an option of `tx`."""
        return None

    @loss_scale_factor.setter
    def loss_scale_factor(self, value: Any) -> None:
        # Keras's LossScaleOptimizer sets it to None on the optimizer that it wraps.
        kept = getattr(self, "_kept", None)
        is_scaled = kept is not None and kept.tx.recipe.composition.control.loss_scale
        if value is not None or is_scaled:
            raise ValueError(
                "`tx` scales the loss itself, and a second loss scale around it would "
                "divide the gradients twice. Pass compile(..., auto_scale_loss=False), "
                "or leave `loss_scale` out of `tx`. A file does not hold the argument: "
                "load its model by load_model(path, compile=False), compile it so, "
                "build the optimizer, and call model.load_weights(path)."
            )

    def exclude_from_weight_decay(
        self, var_list: Any = None, var_names: Any = None
    ) -> None:
        """Refuse: `mask` of `adamw` chooses the parameters that decay.

        Raises:
          NotImplementedError: always.
        """
        raise NotImplementedError(
            "The parameters that decay are chosen in `tx`: optadamw.adamw(..., "
            "mask=optadamw.exclude('*/bias'))."
        )
