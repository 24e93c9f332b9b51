"""MLX: `mlx.optimizers.AdamW`."""

from optadamw.dialects.mlx.adamw import CALL as CALL
from optadamw.dialects.mlx.adamw import AdamW as AdamW
from optadamw.dialects.mlx.state import from_mlx as from_mlx
from optadamw.dialects.mlx.state import to_mlx as to_mlx
