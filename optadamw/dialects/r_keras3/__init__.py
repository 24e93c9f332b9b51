"""R's keras3: `optimizer_adam_w` and `optimizer_loss_scale`."""

from optadamw.dialects.r_keras3.adamw import CALL as CALL
from optadamw.dialects.r_keras3.adamw import optimizer_adam_w as optimizer_adam_w
from optadamw.dialects.r_keras3.adamw import (
    optimizer_loss_scale as optimizer_loss_scale,
)
from optadamw.dialects.r_keras3.state import from_r_keras3 as from_r_keras3
from optadamw.dialects.r_keras3.state import to_r_keras3 as to_r_keras3
