"""Devices that XLA can compile for without having one, by name: "v5e:4x4"."""

import importlib.util
import math
import os
import re
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from optadamw.base.errors import invalid, mistyped, near

TPUS: Mapping[str, int] = {"v4": 3, "v5e": 2, "v5p": 3, "v6e": 2, "tpu7x": 3}
"""The generations of TPUs, and how many axes their topologies have."""
GPUS = ("h100",)
FORM = 'a name such as "v5e:1x1", "v5e:16x16", "v5p:4x4x4", "v6e:1x1" or "h100:1x1x8"'

_MOST = 65_536
_LONGEST = {"v5e": 16}
"""The longest axis of a generation; libtpu ends the process at a longer one."""
_ALONE = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
_ALONE |= {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
"""What libtpu otherwise asks a machine with TPUs for, and its lock against others."""

_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 7 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""The description from which XLA compiles for an H100, in place of the GPU itself."""


def topology_mesh(name: str, axis: str = "data") -> Mesh:
    """Return a mesh of devices that this machine need not have, to compile for them.

    Programs that are lowered for shapes on this mesh can be compiled and not run. JAX
    itself must run on the CPU, with `JAX_PLATFORMS=cpu` or `jax.config.update`, unless
    the machine has a TPU or GPU: JAX would look for one where libtpu is installed.

    Args:
      name: the generation and the number of devices along each axis: "v5e:1x1" is one
        TPU v5e, "v5e:16x16" a pod of 256, "h100:1x1x8" eight H100 in one host.
      axis: the name of the mesh's only axis. Default: "data".

    Raises:
      TypeError: `name` is no string.
      ValueError: there is no such topology.
      ModuleNotFoundError: libtpu, or JAX's plugin for CUDA, is not installed.
    """
    if not isinstance(name, str):
        raise mistyped("topology", FORM, name)
    kind, _, shape = name.partition(":")
    if kind not in (*TPUS, *GPUS):
        known = near(kind, (*TPUS, *GPUS), len(TPUS) + 1)
        raise invalid("topology", FORM, name, f"Known are: {known}.")
    axes = TPUS.get(kind, 3)
    is_shape = re.fullmatch(r"[0-9]+(x[0-9]+)*", shape)
    sizes = [int(n) for n in shape.split("x")] if is_shape else []
    if len(sizes) != axes or not 1 <= math.prod(sizes) <= _MOST:
        one = f"{kind}:{'x'.join(['1'] * axes)}"
        remedy = f'{kind} has {axes} axes; one device is "{one}".'
        raise invalid("topology", FORM, name, remedy)
    longest = _LONGEST.get(kind, _MOST)
    if max(sizes) > longest:
        raise invalid("topology", FORM, name, f"An axis of {kind} has up to {longest}.")
    if missing := missing_compiler(name):
        raise ModuleNotFoundError(missing)
    return Mesh(np.array(_devices(name, kind, shape, sizes)).reshape(-1), (axis,))


def missing_compiler(name: str) -> str | None:
    """Say what must be installed to compile for this topology; None if nothing."""
    if name.partition(":")[0] in GPUS:
        found = any(
            importlib.util.find_spec(f"jax_cuda{version}_plugin")
            for version in (12, 13)
        )
        needed, extra = "JAX's plugin for CUDA", "aot-gpu"
    else:
        found = importlib.util.find_spec("libtpu") is not None
        needed, extra = "libtpu", "aot-tpu"
    if found:
        return None
    return (
        f"Compiling for {name} needs {needed}, which is not installed. It needs no "
        f"such device: pip install 'optadamw[{extra}]' in an environment of its own."
    )


def _devices(name: str, kind: str, shape: str, sizes: list[int]) -> list[jax.Device]:
    try:
        if kind in GPUS:
            found = topologies.get_topology_desc(
                platform="cuda",
                topology_name=kind,
                topology=shape,
                target_config=_H100,
            )
            return list(found.devices)
        for variable, value in _ALONE.items():
            os.environ.setdefault(variable, value)
        # Without bounds libtpu takes a host of four chips or more.
        alone = math.prod(sizes) == 1
        bounds = {"chips_per_host_bounds": (1, 1, 1)} if alone else {}
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=name, **bounds
        )
    except (RuntimeError, ValueError, NotImplementedError) as error:
        first = str(error).splitlines()[0]
        raise invalid("topology", f"one that XLA knows ({first})", name) from error
    return list(found.devices)
