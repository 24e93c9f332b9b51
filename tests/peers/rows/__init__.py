"""Every configuration that is recorded, per peer, in the peer's own words.

`kwargs` are the keyword arguments of the peer's own function, so one row configures
the peer and the library's call of the same name. What a peer does outside that
function stands beside them, in `outside`:

    groups          {path pattern: overrides}: parameter groups; the first match counts
    lambda_lr       schedule that multiplies the rate of every group
    clip_grad_norm, clip_grad_value   the peer's own function, before each step
    accumulation    one step per k calls, from the sum of their gradients divided by k
    grad_scaler     keyword arguments of torch's GradScaler; gradients come scaled
    loss_scale      keyword arguments of Keras's LossScaleOptimizer; gradients scaled
    scaled_by       gradients are multiplied by this number before they are handed over
    infinite_at     calls at which the last gradient of "b/kernel" is infinite
    absent          {path: (first, stop)}: calls at which that leaf has no gradient
    average         decay of the average of the parameters kept beside the optimizer
    exclude         patterns searched in the peer's own way for what does not decay
    chain           Optax transformations placed before the function, as (name, *args)
    decay           `add_decayed_weights` and the rate after a `scale_by_*` (Optax)
    multi_steps, apply_if_finite, inject_hyperparams    Optax's wrappers and arguments
    gradients       dtype of the gradients, where it is not the parameters'
    finalize        the parameters after Keras's `finalize_variable_values` too

Every option that changes numbers is at a value that shows in some row: `beta_2` is
small where the maximum of the second moments has to matter, and a clip's limit lies
inside the range of the norms of the stream.
"""

from tests.peers.rows import (
    flux,
    keras,
    low_bit,
    mlx,
    optax,
    optimi,
    paper,
    tfa,
    timm,
    torch,
)
from tests.peers.rows.row import Row as Row

KERAS = keras.keras()
# The rows of each recording: `recorded/<name>.npz` has one for each of these.
ROWS: dict[str, dict[str, Row]] = {
    "torch": torch.torch(),
    "keras_jax": KERAS,
    "keras_torch": KERAS,
    "mlx": mlx.mlx(),
    "optax": optax.optax(),
    "tf_keras": keras.tf_keras(),
    "tfa": tfa.tfa(),
    "timm": timm.timm(),
    "optimi": optimi.optimi(),
    "torchao": low_bit.torchao(),
    "bitsandbytes": low_bit.bitsandbytes(),
    "bitsandbytes_cuda": low_bit.bitsandbytes_cuda(),
    "flux": flux.flux(),
    "paper": paper.paper(),
}
