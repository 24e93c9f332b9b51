"""TensorFlow Addons: `tfa.optimizers.AdamW`."""

from optadamw.dialects.tensorflow_addons.adamw import CALL as CALL
from optadamw.dialects.tensorflow_addons.adamw import AdamW as AdamW
from optadamw.dialects.tensorflow_addons.state import (
    from_tensorflow_addons as from_tensorflow_addons,
)
from optadamw.dialects.tensorflow_addons.state import (
    to_tensorflow_addons as to_tensorflow_addons,
)
