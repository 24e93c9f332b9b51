"""Keras 3: `keras.optimizers.AdamW` and what goes with it."""

from optadamw.dialects.keras.adamw import CALL as CALL
from optadamw.dialects.keras.adamw import AdamW as AdamW
from optadamw.dialects.keras.adamw import LossScaleOptimizer as LossScaleOptimizer
from optadamw.dialects.keras.adamw import (
    exclude_from_weight_decay as exclude_from_weight_decay,
)
from optadamw.dialects.keras.adamw import (
    finalize_variable_values as finalize_variable_values,
)
from optadamw.dialects.keras.state import from_keras as from_keras
from optadamw.dialects.keras.state import to_keras as to_keras
