"""Doors to this library for those who come from another one.

One module for each peer, with the peer's function name, argument names, order and
defaults, and the import and export of its saved state:

    from optadamw.dialects import torch
    tx = torch.AdamW(lr=1e-3, weight_decay=0.01)

`optadamw dialects` and docs/dialects.md show all of them.
"""
