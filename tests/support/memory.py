"""Programs that read files in a process with a limit of memory."""


def under_limit(megabytes: int) -> str:
    """Return the first lines of such a program; it may then take these MiB more.

    The packages that a reader needs, and JAX's own memory, are there before the limit.
    """
    return f"""
import resource, sys
import jax
from optadamw.dialects.files import files
for name in ("h5py", "torch"):
    try:
        __import__(name)
    except ImportError:
        pass
jax.numpy.zeros(1).block_until_ready()
with open("/proc/self/statm") as statm:
    taken = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + ({megabytes} << 20),) * 2)
"""
