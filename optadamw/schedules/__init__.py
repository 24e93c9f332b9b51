"""Schedules that compare and hash by their arguments, pickle, and print as a call."""

from optadamw.schedules.constant import constant_schedule as constant_schedule
from optadamw.schedules.cosine import cosine_decay_schedule as cosine_decay_schedule
from optadamw.schedules.exponential import exponential_decay as exponential_decay
from optadamw.schedules.join import join_schedules as join_schedules
from optadamw.schedules.normalized_decay import (
    NormalizedWeightDecay as NormalizedWeightDecay,
)
from optadamw.schedules.normalized_decay import (
    normalized_weight_decay as normalized_weight_decay,
)
from optadamw.schedules.onecycle import (
    cosine_onecycle_schedule as cosine_onecycle_schedule,
)
from optadamw.schedules.onecycle import (
    linear_onecycle_schedule as linear_onecycle_schedule,
)
from optadamw.schedules.piecewise import (
    piecewise_constant_schedule as piecewise_constant_schedule,
)
from optadamw.schedules.piecewise import (
    piecewise_interpolate_schedule as piecewise_interpolate_schedule,
)
from optadamw.schedules.polynomial import linear_schedule as linear_schedule
from optadamw.schedules.polynomial import polynomial_schedule as polynomial_schedule
from optadamw.schedules.restarts import CosineWarmRestarts as CosineWarmRestarts
from optadamw.schedules.restarts import cosine_warm_restarts as cosine_warm_restarts
from optadamw.schedules.sgdr import sgdr_schedule as sgdr_schedule
from optadamw.schedules.slow_moment import SlowMomentSchedule as SlowMomentSchedule
from optadamw.schedules.slow_moment import slow_moment_schedule as slow_moment_schedule
from optadamw.schedules.value import OptaxSchedule as OptaxSchedule
from optadamw.schedules.warmup import (
    warmup_constant_schedule as warmup_constant_schedule,
)
from optadamw.schedules.warmup import (
    warmup_cosine_decay_schedule as warmup_cosine_decay_schedule,
)
from optadamw.schedules.warmup import (
    warmup_exponential_decay_schedule as warmup_exponential_decay_schedule,
)
from optadamw.schedules.warmup_stable import WarmupStableDecay as WarmupStableDecay
from optadamw.schedules.warmup_stable import (
    warmup_stable_decay_schedule as warmup_stable_decay_schedule,
)

__all__ = [
    "CosineWarmRestarts",
    "NormalizedWeightDecay",
    "OptaxSchedule",
    "SlowMomentSchedule",
    "WarmupStableDecay",
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "cosine_warm_restarts",
    "exponential_decay",
    "join_schedules",
    "linear_onecycle_schedule",
    "linear_schedule",
    "normalized_weight_decay",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "polynomial_schedule",
    "sgdr_schedule",
    "slow_moment_schedule",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
    "warmup_stable_decay_schedule",
]
