"""optimi (torch-optimi): `optimi.AdamW`."""

from optadamw.dialects.optimi.adamw import CALL as CALL
from optadamw.dialects.optimi.adamw import AdamW as AdamW
from optadamw.dialects.optimi.state import from_optimi as from_optimi
from optadamw.dialects.optimi.state import to_optimi as to_optimi
