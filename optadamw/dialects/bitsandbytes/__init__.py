"""bitsandbytes' AdamW and Adam in 32 and 8 bits, decoded."""

from optadamw.dialects.bitsandbytes.state import from_bitsandbytes as from_bitsandbytes
from optadamw.dialects.bitsandbytes.state import to_bitsandbytes as to_bitsandbytes
