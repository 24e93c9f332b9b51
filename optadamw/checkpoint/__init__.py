"""Save a state, and restore it: bit for bit, or in another transformation."""

from optadamw.checkpoint.damage import DamagedCheckpoint as DamagedCheckpoint
from optadamw.checkpoint.digest import digests as digests
from optadamw.checkpoint.digest import verify as verify
from optadamw.checkpoint.file import load as load
from optadamw.checkpoint.file import save as save
from optadamw.checkpoint.params import params_of as params_of
from optadamw.checkpoint.portable import Saved as Saved
from optadamw.checkpoint.portable import opened as opened
from optadamw.checkpoint.portable import to_portable as to_portable
from optadamw.checkpoint.report import Report as Report
from optadamw.checkpoint.restore import restore as restore
