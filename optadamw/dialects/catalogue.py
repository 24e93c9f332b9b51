"""The calls of all peers, in the order in which they are shown."""

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
from optadamw.dialects.calls.call import PeerCall

CALLS: dict[str, PeerCall] = {
    peer.CALL.module: peer.CALL
    for peer in (
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
