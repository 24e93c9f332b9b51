"""timm: `AdamWLegacy` and `NAdamW` (its `AdamW` is PyTorch's)."""

from optadamw.dialects.timm.adamw import CALL as CALL
from optadamw.dialects.timm.adamw import AdamWLegacy as AdamWLegacy
from optadamw.dialects.timm.adamw import NAdamW as NAdamW
from optadamw.dialects.timm.state import from_timm as from_timm
from optadamw.dialects.timm.state import to_timm as to_timm
