"""All doors, in the order in which they are shown."""

from optadamw.dialects import (
    flux,
    keras,
    mlx,
    optax,
    optimi,
    paper,
    r_keras3,
    tensorflow,
    tensorflow_addons,
    timm,
    torch,
)
from optadamw.dialects.calls.call import Door

DOORS: dict[str, Door] = {
    module.DOOR.module: module.DOOR
    for module in (
        keras,
        r_keras3,
        torch,
        tensorflow,
        tensorflow_addons,
        flux,
        mlx,
        optax,
        paper,
        optimi,
        timm,
    )
}
