"""The paper: Algorithm 2 of Loshchilov & Hutter, and its authors' code."""

from optadamw.dialects.paper.adamw import CALL as CALL
from optadamw.dialects.paper.adamw import adamw as adamw
from optadamw.dialects.paper.adamw import authors_adamw as authors_adamw
from optadamw.dialects.paper.adamw import cosine_warm_restarts as cosine_warm_restarts
from optadamw.dialects.paper.adamw import (
    normalized_weight_decay as normalized_weight_decay,
)
