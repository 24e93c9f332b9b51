"""Saved optimizer states of other libraries: from them, and to them.

`from_<library>(saved, params, tx=tx)` makes of what was saved there the State with
which `tx` goes on; `to_<library>(state, params, tx=tx)` makes what its load function
takes. Both are about plain mappings of arrays, and import no framework.
"""

from optadamw.interchange.bitsandbytes import from_bitsandbytes as from_bitsandbytes
from optadamw.interchange.bitsandbytes import to_bitsandbytes as to_bitsandbytes
from optadamw.interchange.flux import from_flux as from_flux
from optadamw.interchange.flux import to_flux as to_flux
from optadamw.interchange.keras import from_keras as from_keras
from optadamw.interchange.keras import to_keras as to_keras
from optadamw.interchange.mlx import from_mlx as from_mlx
from optadamw.interchange.mlx import to_mlx as to_mlx
from optadamw.interchange.optax import from_optax as from_optax
from optadamw.interchange.optax import to_optax as to_optax
from optadamw.interchange.optimi import from_optimi as from_optimi
from optadamw.interchange.optimi import to_optimi as to_optimi
from optadamw.interchange.tensorflow import from_tensorflow as from_tensorflow
from optadamw.interchange.tensorflow import to_tensorflow as to_tensorflow
from optadamw.interchange.tensorflow_addons import (
    from_tensorflow_addons as from_tensorflow_addons,
)
from optadamw.interchange.tensorflow_addons import (
    to_tensorflow_addons as to_tensorflow_addons,
)
from optadamw.interchange.timm import from_timm as from_timm
from optadamw.interchange.timm import to_timm as to_timm
from optadamw.interchange.torch import from_torch as from_torch
from optadamw.interchange.torch import to_torch as to_torch
from optadamw.interchange.torchao import from_torchao as from_torchao
from optadamw.interchange.torchao import to_torchao as to_torchao
