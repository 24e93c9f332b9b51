"""AdamW, done completely, for JAX.

Rules are composed first (`transforms/`), walked once and stepped in place (`walk/`, and
`leaf/` for each parameter), kept in stores (`store/`), written by commits (`commit/`),
and controlled from around (`control/`). `rules/__init__.py` lists the lines of the
paper's Algorithm 2 with the function that computes each; docs/ideas/design.md has the
rest.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from optadamw.adamw import adamw as adamw
from optadamw.base.adjustable import adjustable as adjustable
from optadamw.base.lazy import lazily as _lazily
from optadamw.base.patterns import exclude as exclude
from optadamw.base.patterns import only as only
from optadamw.base.version import __version__ as __version__
from optadamw.control.loss_scale import DynamicLossScale as DynamicLossScale
from optadamw.reports.check_schedules import check_schedules as check_schedules
from optadamw.reports.describe import describe as describe
from optadamw.reports.memory import memory_plan as memory_plan
from optadamw.reports.memory_table import MemoryPlan as MemoryPlan
from optadamw.schedules import cosine_warm_restarts as cosine_warm_restarts
from optadamw.schedules import normalized_weight_decay as normalized_weight_decay
from optadamw.sharding.check_sharding import check_sharding as check_sharding
from optadamw.sharding.state_sharding import state_shapes as state_shapes
from optadamw.sharding.state_sharding import state_sharding as state_sharding
from optadamw.store.dequantize import dequantize as dequantize
from optadamw.store.formats import blockwise as blockwise
from optadamw.store.formats import stochastic as stochastic
from optadamw.store.state import State as State
from optadamw.transforms.add_decoupled_weight_decay import (
    add_decoupled_weight_decay as add_decoupled_weight_decay,
)
from optadamw.transforms.add_slow_moment import add_slow_moment as add_slow_moment
from optadamw.transforms.amsgrad_max import amsgrad_max as amsgrad_max
from optadamw.transforms.average import ema_of as ema_of
from optadamw.transforms.average import finalize as finalize
from optadamw.transforms.average import swap_ema as swap_ema
from optadamw.transforms.cautious import cautious as cautious
from optadamw.transforms.chain import chain as chain
from optadamw.transforms.clip_by_global_norm import (
    clip_by_global_norm as clip_by_global_norm,
)
from optadamw.transforms.clip_by_norm import clip_by_norm as clip_by_norm
from optadamw.transforms.clip_by_value import clip_by_value as clip_by_value
from optadamw.transforms.clip_update_by_rms import (
    clip_update_by_rms as clip_update_by_rms,
)
from optadamw.transforms.ema_params import ema_params as ema_params
from optadamw.transforms.freeze import freeze as freeze
from optadamw.transforms.gradient_release import GradientRelease as GradientRelease
from optadamw.transforms.gradient_release import gradient_release as gradient_release
from optadamw.transforms.layerwise_decay import layerwise_decay as layerwise_decay
from optadamw.transforms.maximize import maximize as maximize
from optadamw.transforms.multi_steps import multi_steps as multi_steps
from optadamw.transforms.mup import mup as mup
from optadamw.transforms.param_groups import param_groups as param_groups
from optadamw.transforms.scale_by_adam import scale_by_adam as scale_by_adam
from optadamw.transforms.scale_by_learning_rate import (
    scale_by_learning_rate as scale_by_learning_rate,
)
from optadamw.transforms.scale_by_second_moment import (
    scale_by_second_moment as scale_by_second_moment,
)
from optadamw.transforms.schedule_free import schedule_free as schedule_free
from optadamw.transforms.schedule_free import (
    schedule_free_adamw as schedule_free_adamw,
)
from optadamw.transforms.skip_nonfinite import skip_nonfinite as skip_nonfinite
from optadamw.transforms.skip_spikes import skip_spikes as skip_spikes
from optadamw.transforms.stats import Stats as Stats
from optadamw.transforms.step import step as step
from optadamw.transforms.transformation import Transformation as Transformation
from optadamw.transforms.with_axes import with_axes as with_axes
from optadamw.transforms.with_commit import with_commit as with_commit
from optadamw.transforms.with_kernels import with_kernels as with_kernels
from optadamw.transforms.with_loss_scale import scale_loss as scale_loss
from optadamw.transforms.with_loss_scale import with_loss_scale as with_loss_scale
from optadamw.transforms.with_offload import with_offload as with_offload
from optadamw.transforms.with_pallas import with_pallas as with_pallas
from optadamw.transforms.with_reproducible_norms import (
    with_reproducible_norms as with_reproducible_norms,
)
from optadamw.transforms.with_seed import with_seed as with_seed
from optadamw.transforms.with_stats import stats_of as stats_of
from optadamw.transforms.with_stats import with_stats as with_stats
from optadamw.transforms.with_zero1 import with_zero1 as with_zero1
from optadamw.tuning.points import grid_points as grid_points
from optadamw.tuning.points import random_points as random_points
from optadamw.tuning.programs import Members as Members
from optadamw.tuning.range_test import RangeTest as RangeTest
from optadamw.tuning.range_test import lr_range_test as lr_range_test
from optadamw.tuning.sweep import Sweep as Sweep
from optadamw.tuning.sweep import sweep as sweep

if _TYPE_CHECKING:
    from optadamw import checkpoint as checkpoint
    from optadamw import custom as custom
    from optadamw import dialects as dialects
    from optadamw import integrations as integrations
    from optadamw import interchange as interchange
    from optadamw import plotting as plotting
    from optadamw import schedules as schedules

__all__ = [
    "DynamicLossScale",
    "GradientRelease",
    "Members",
    "MemoryPlan",
    "RangeTest",
    "State",
    "Stats",
    "Sweep",
    "Transformation",
    "__version__",
    "adamw",
    "add_decoupled_weight_decay",
    "add_slow_moment",
    "adjustable",
    "amsgrad_max",
    "blockwise",
    "cautious",
    "chain",
    "check_schedules",
    "check_sharding",
    "checkpoint",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_value",
    "clip_update_by_rms",
    "cosine_warm_restarts",
    "custom",
    "dequantize",
    "describe",
    "dialects",
    "ema_of",
    "ema_params",
    "exclude",
    "finalize",
    "freeze",
    "gradient_release",
    "grid_points",
    "integrations",
    "interchange",
    "layerwise_decay",
    "lr_range_test",
    "maximize",
    "memory_plan",
    "multi_steps",
    "mup",
    "normalized_weight_decay",
    "only",
    "param_groups",
    "plotting",
    "random_points",
    "scale_by_adam",
    "scale_by_learning_rate",
    "scale_by_second_moment",
    "scale_loss",
    "schedule_free",
    "schedule_free_adamw",
    "schedules",
    "skip_nonfinite",
    "skip_spikes",
    "state_shapes",
    "state_sharding",
    "stats_of",
    "step",
    "stochastic",
    "swap_ema",
    "sweep",
    "with_axes",
    "with_commit",
    "with_kernels",
    "with_loss_scale",
    "with_offload",
    "with_pallas",
    "with_reproducible_norms",
    "with_seed",
    "with_stats",
    "with_zero1",
]

__getattr__, __dir__ = _lazily(
    __name__,
    {
        "checkpoint": "optadamw.checkpoint",
        "custom": "optadamw.custom",
        "dialects": "optadamw.dialects",
        "integrations": "optadamw.integrations",
        "interchange": "optadamw.interchange",
        "plotting": "optadamw.plotting",
        "schedules": "optadamw.schedules",
    },
    __all__,
)
