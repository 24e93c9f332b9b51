"""AdamW, done completely, for JAX."""

from importlib import metadata as _metadata

from optadamw.adamw import adamw as adamw
from optadamw.describe import describe as describe
from optadamw.rules.adam import scale_by_adam as scale_by_adam
from optadamw.rules.amsgrad import amsgrad_max as amsgrad_max
from optadamw.rules.caution import cautious as cautious
from optadamw.rules.clip import clip_by_global_norm as clip_by_global_norm
from optadamw.rules.clip import clip_by_norm as clip_by_norm
from optadamw.rules.clip import clip_by_value as clip_by_value
from optadamw.rules.decay import (
    add_decoupled_weight_decay as add_decoupled_weight_decay,
)
from optadamw.rules.ema import ema_of as ema_of
from optadamw.rules.ema import ema_params as ema_params
from optadamw.rules.maximize import maximize as maximize
from optadamw.rules.rate import scale_by_learning_rate as scale_by_learning_rate
from optadamw.selection import exclude as exclude
from optadamw.selection import only as only
from optadamw.state import State as State
from optadamw.transformation import Transformation as Transformation
from optadamw.transformation import chain as chain
from optadamw.transformation import step as step

try:
    __version__ = _metadata.version("optadamw")
except _metadata.PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0.0.0"
