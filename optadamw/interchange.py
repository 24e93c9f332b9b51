"""Convert saved optimizer states from and to other libraries.

`from_<library>(saved, params, tx=tx)` makes the State with which `tx` continues a run
of that library; `to_<library>(state, params, tx=tx)` makes the object that the
library's load function takes. Both work on plain mappings of arrays, and import no
framework.
"""

from optadamw.dialects.bitsandbytes.state import from_bitsandbytes as from_bitsandbytes
from optadamw.dialects.bitsandbytes.state import to_bitsandbytes as to_bitsandbytes
from optadamw.dialects.flux.state import from_flux as from_flux
from optadamw.dialects.flux.state import to_flux as to_flux
from optadamw.dialects.keras.state import from_keras as from_keras
from optadamw.dialects.keras.state import to_keras as to_keras
from optadamw.dialects.mlx.state import from_mlx as from_mlx
from optadamw.dialects.mlx.state import to_mlx as to_mlx
from optadamw.dialects.optax.state import from_optax as from_optax
from optadamw.dialects.optax.state import to_optax as to_optax
from optadamw.dialects.optimi.state import from_optimi as from_optimi
from optadamw.dialects.optimi.state import to_optimi as to_optimi
from optadamw.dialects.tensorflow.state import from_tensorflow as from_tensorflow
from optadamw.dialects.tensorflow.state import to_tensorflow as to_tensorflow
from optadamw.dialects.tensorflow_addons.state import (
    from_tensorflow_addons as from_tensorflow_addons,
)
from optadamw.dialects.tensorflow_addons.state import (
    to_tensorflow_addons as to_tensorflow_addons,
)
from optadamw.dialects.timm.state import from_timm as from_timm
from optadamw.dialects.timm.state import to_timm as to_timm
from optadamw.dialects.torch.state import from_torch as from_torch
from optadamw.dialects.torch.state import to_torch as to_torch
from optadamw.dialects.torchao.state import from_torchao as from_torchao
from optadamw.dialects.torchao.state import to_torchao as to_torchao
