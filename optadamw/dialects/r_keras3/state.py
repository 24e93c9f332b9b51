"""The saved state of R's keras3, which is that of Keras 3."""

from optadamw.dialects.keras.state import from_keras as from_r_keras3
from optadamw.dialects.keras.state import to_keras as to_r_keras3

__all__ = ["from_r_keras3", "to_r_keras3"]
