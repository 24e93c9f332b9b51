"""PyTorch: `torch.optim.AdamW`, `clip_grad_norm_` and `GradScaler`."""

from optadamw.dialects.torch.adamw import CALL as CALL
from optadamw.dialects.torch.adamw import AdamW as AdamW
from optadamw.dialects.torch.adamw import GradScaler as GradScaler
from optadamw.dialects.torch.state import from_torch as from_torch
from optadamw.dialects.torch.state import to_torch as to_torch
