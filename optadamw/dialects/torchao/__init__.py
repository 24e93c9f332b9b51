"""torchao's AdamW8bit, AdamW4bit and AdamWFp8, decoded."""

from optadamw.dialects.torchao.state import from_torchao as from_torchao
from optadamw.dialects.torchao.state import to_torchao as to_torchao
