"""TensorFlow: `tf.keras.optimizers.AdamW` of Keras 2."""

from optadamw.dialects.tensorflow.adamw import CALL as CALL
from optadamw.dialects.tensorflow.adamw import AdamW as AdamW
from optadamw.dialects.tensorflow.adamw import (
    exclude_from_weight_decay as exclude_from_weight_decay,
)
from optadamw.dialects.tensorflow.adamw import (
    finalize_variable_values as finalize_variable_values,
)
from optadamw.dialects.tensorflow.state import from_tensorflow as from_tensorflow
from optadamw.dialects.tensorflow.state import to_tensorflow as to_tensorflow
