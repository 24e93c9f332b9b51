"""Training loops of other libraries, taking the step that works in place.

`optadamw.integrations.flax_nnx.Optimizer` stands where `flax.nnx.Optimizer` stood,
`optadamw.integrations.flax_linen.TrainState` where Flax's `TrainState` stood, and
`optadamw.integrations.equinox` has `init`, `step` and `flush` for Equinox models. Each
imports its library, so none is imported with optadamw.

None of them is needed: a transformation is one of Optax, and the loops of these
libraries take it as it is. They then go through `update`, which has to return the
updates; these go through `step`, which writes over the parameters.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from optadamw.base.lazy import lazily as _lazily

if _TYPE_CHECKING:
    from optadamw.integrations import equinox as equinox
    from optadamw.integrations import flax_linen as flax_linen
    from optadamw.integrations import flax_nnx as flax_nnx

__all__ = ["equinox", "flax_linen", "flax_nnx"]

__getattr__, __dir__ = _lazily(
    __name__, {name: f"optadamw.integrations.{name}" for name in __all__}, __all__
)
