"""Training loops of other libraries that take the step in place.

`optadamw.integrations.flax_nnx.Optimizer` replaces `flax.nnx.Optimizer`,
`optadamw.integrations.flax_linen.TrainState` replaces Flax's `TrainState`, and
`optadamw.integrations.equinox` has `init`, `step` and `flush` for Equinox models. Each
module imports its library, so `import optadamw` imports none of them.
`optadamw.integrations.keras.Optimizer` is a Keras optimizer for `compile` and `fit`.

Those of Flax and Equinox are optional: the loops of these libraries accept a
transformation of optadamw as an Optax transformation. Those loops call `update`, which
must return the updates; these integrations call `step`, which overwrites the
parameters.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from optadamw.base.lazy import lazily as _lazily

if _TYPE_CHECKING:
    from optadamw.integrations import equinox as equinox
    from optadamw.integrations import flax_linen as flax_linen
    from optadamw.integrations import flax_nnx as flax_nnx
    from optadamw.integrations import keras as keras

__all__ = ["equinox", "flax_linen", "flax_nnx", "keras"]

__getattr__, __dir__ = _lazily(
    __name__, {name: f"optadamw.integrations.{name}" for name in __all__}, __all__
)
