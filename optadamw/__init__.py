"""AdamW, done completely, for JAX."""

from importlib import metadata as _metadata

from optadamw.adamw import adamw as adamw
from optadamw.averaging import finalize as finalize
from optadamw.averaging import swap_ema as swap_ema
from optadamw.control.loss_scale import DynamicLossScale as DynamicLossScale
from optadamw.dequantize import dequantize as dequantize
from optadamw.describe import describe as describe
from optadamw.memory.plan import MemoryPlan as MemoryPlan
from optadamw.memory.plan import memory_plan as memory_plan
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
from optadamw.schedules import cosine_warm_restarts as cosine_warm_restarts
from optadamw.schedules import normalized_weight_decay as normalized_weight_decay
from optadamw.selection import exclude as exclude
from optadamw.selection import only as only
from optadamw.state import State as State
from optadamw.storage import blockwise as blockwise
from optadamw.storage import stochastic as stochastic
from optadamw.transformation import Transformation as Transformation
from optadamw.transformation import chain as chain
from optadamw.transformation import step as step
from optadamw.wrappers.commit import with_commit as with_commit
from optadamw.wrappers.groups import param_groups as param_groups
from optadamw.wrappers.loss_scale import scale_loss as scale_loss
from optadamw.wrappers.loss_scale import with_loss_scale as with_loss_scale
from optadamw.wrappers.multi_steps import multi_steps as multi_steps
from optadamw.wrappers.pallas import with_pallas as with_pallas
from optadamw.wrappers.seed import with_seed as with_seed
from optadamw.wrappers.skip_nonfinite import skip_nonfinite as skip_nonfinite
from optadamw.wrappers.skip_spikes import skip_spikes as skip_spikes
from optadamw.wrappers.stats import Stats as Stats
from optadamw.wrappers.stats import stats_of as stats_of
from optadamw.wrappers.stats import with_stats as with_stats

try:
    __version__ = _metadata.version("optadamw")
except _metadata.PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0.0.0"
