"""Flux and Optimisers.jl: `AdamW`."""

from optadamw.dialects.flux.adamw import CALL as CALL
from optadamw.dialects.flux.adamw import AdamW as AdamW
from optadamw.dialects.flux.adamw import old_AdamW as old_AdamW
from optadamw.dialects.flux.state import from_flux as from_flux
from optadamw.dialects.flux.state import to_flux as to_flux
