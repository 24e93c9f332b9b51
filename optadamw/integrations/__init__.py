"""Training loops of other libraries, taking the step that works in place.

`optadamw.integrations.flax_nnx.Optimizer` stands where `flax.nnx.Optimizer` stood,
`optadamw.integrations.flax_linen.TrainState` where Flax's `TrainState` stood, and
`optadamw.integrations.equinox` has `init`, `step` and `flush` for Equinox models. Each
imports its library, so none is imported with optadamw.

None of them is needed: a transformation is one of Optax, and the loops of these
libraries take it as it is. They then go through `update`, which has to return the
updates; these go through `step`, which writes over the parameters.
"""
