"""Run a leaf: as a kernel where one is to be had, else as a whole."""

import jax

from optadamw.leaf.compute import run_leaf
from optadamw.leaf.pallas.choice import run_by_platform
from optadamw.leaf.pallas.devices import TARGETS, device_in
from optadamw.leaf.pallas.fits import targets_of
from optadamw.leaf.pallas.kernel import run_tiles
from optadamw.leaf.program import LeafInput, LeafOutput, Program


def run(program: Program, given: LeafInput) -> LeafOutput:
    """Run a leaf in tiles on the platforms that have a kernel for it; else whole.

    Arrays show the mesh over which they are divided, and so the platform, also if its
    axes are Auto. Other arrays are taken to be for JAX's default platform, so that
    nothing is traced for kernels on a CPU: `run_by_platform` traces a leaf in twice the
    time of `run_leaf`.
    """
    targets = targets_of(program, given.param)
    if targets and program.kernel == "interpreted":
        return run_tiles(program, targets[0], True, given)
    if targets:
        device = device_in(given)
        platform = None if device is None else device.platform
        if platform is None and program.kernel is None:
            platform = jax.default_backend()
        targets = tuple(t for t in targets if t in TARGETS.get(platform, ()))
    if not targets:
        return run_leaf(program, given)
    return run_by_platform(program, targets, given)
