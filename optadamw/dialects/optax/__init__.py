"""Optax: `adamw`, `nadamw`, `amsgrad`."""

from optadamw.dialects.optax.adamw import CALL as CALL
from optadamw.dialects.optax.adamw import adamw as adamw
from optadamw.dialects.optax.adamw import amsgrad as amsgrad
from optadamw.dialects.optax.adamw import nadamw as nadamw
from optadamw.dialects.optax.state import from_optax as from_optax
from optadamw.dialects.optax.state import to_optax as to_optax
