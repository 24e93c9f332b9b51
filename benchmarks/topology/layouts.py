"""`python -m benchmarks --topology NAME --layouts`: what each layout costs a device."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import optadamw
from benchmarks import environment
from benchmarks.topology import modules, traffic
from benchmarks.topology.cases import shapes
from benchmarks.topology.placed import count
from optadamw.reports.topology import topology_mesh

_BOTH = ("data", "fsdp")


class Layout(NamedTuple):
    """How parameters and state lie on a mesh of the axes `data` and `fsdp`.

    Attributes:
        divided: Axes over which the parameters are divided.
        zero1: Further axes over which the state is divided.
        offload: Buffers in the memory of the host.
    """

    divided: tuple[str, ...] = ()
    zero1: tuple[str, ...] = ()
    offload: tuple[str, ...] = ()

    def options(self, layout: Any) -> dict[str, Any]:
        """Returns the arguments of `adamw` for this layout."""
        options: dict[str, Any] = {}
        if self.zero1:
            options |= {"zero1": self.zero1, "zero1_layout": layout}
        if self.offload:
            options |= {"offload": self.offload}
        return options


_MOMENTS = ("mu", "nu")
LAYOUTS: dict[str, Layout] = {
    "replicated": Layout(),
    "ZeRO-1": Layout(zero1=_BOTH),
    "FSDP": Layout(divided=_BOTH),
    "FSDP x ZeRO-1": Layout(divided=("fsdp",), zero1=("data",)),
    "ZeRO-1, offload": Layout(zero1=_BOTH, offload=_MOMENTS),
    "FSDP, offload": Layout(divided=_BOTH, offload=_MOMENTS),
}
HEAD = (
    f"{'layout':16} {'parameters':>10} {'state':>6} {'host':>6} {'temporaries':>11} "
    f"{'s':>5}  collectives of the step; with a backward pass"
)
LEGEND = (
    "AdamW with a global clip, float32. Bytes on each device for each parameter of the "
    "model: parameters and state that lie on the device, state in the memory of its "
    "host, temporaries of the step. Seconds to compile both programs. Collectives, and "
    "the bytes of their results on each device for each parameter."
)


def run(
    name: str,
    quick: bool,
    write: Callable[[dict[str, Any]], None],
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Compiles every layout for a topology.

    Raises:
        ValueError: The topology is not known.
        ModuleNotFoundError: XLA's compiler for the topology is not installed.
    """
    mesh = _two_axes(topology_mesh(name))
    result: dict[str, Any] = {
        **environment.of_topology(name, mesh, quick),
        "mesh": dict(mesh.shape),
        "parameters": count(shapes(quick)),
        "layouts": {},
    }
    say(f"{name}: {dict(mesh.shape)} of {result['device_kind']}, jax {jax.__version__}")
    say(f"{LEGEND}\n\n{HEAD}")
    for label, layout in LAYOUTS.items():
        figures = measure(mesh, layout, shapes(quick))
        result["layouts"][label] = figures
        say(row(label, figures))
        write(result)
    return result


def measure(mesh: Mesh, layout: Layout, leaves: Any) -> dict[str, Any]:
    """Compiles a step in a layout, alone and behind a backward pass."""
    spec = PartitionSpec(layout.divided) if layout.divided else PartitionSpec()
    params = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(mesh, spec)
        ),
        leaves,
    )
    home = jax.tree.map(lambda x: x.sharding, params)
    tx = optadamw.adamw(1e-3, clip_global_norm=1.0, **layout.options(home))
    state = optadamw.state_shapes(tx, params)
    wide = NamedSharding(mesh, PartitionSpec(_BOTH))
    batch = jax.ShapeDtypeStruct(
        (8 * mesh.size, leaves["kernel_0"].shape[0]), jnp.float32, sharding=wide
    )

    def step(params: Any, state: Any, grads: Any) -> Any:
        return tuple(tx.step(grads, state, params))

    def train_step(params: Any, state: Any, x: Any) -> Any:
        return step(params, state, jax.grad(_loss)(params, x))

    out = jax.tree.map(lambda x: x.sharding, (params, state))
    programs = {"step": (step, params)}
    if not layout.offload:  # its collectives are those without it
        programs["with_backward_pass"] = (train_step, batch)
    found: dict[str, Any] = {}
    memory: dict[str, Any] = {}
    seconds = 0.0
    for name, (function, given) in programs.items():
        jitted = jax.jit(function, donate_argnums=(0, 1), out_shardings=out)
        lowered = jitted.lower(params, state, given)
        start = time.perf_counter()
        compiled = lowered.compile()
        seconds += time.perf_counter() - start
        memory[name] = compiled.memory_analysis()
        found[name] = _collectives(traffic.of(modules.parse(compiled.as_text())))
    alone = memory["step"]
    return {
        "parameter_bytes": _held(params),
        "state_bytes": _held(state) - alone.host_argument_size_in_bytes,
        "host_state_bytes": alone.host_argument_size_in_bytes,
        "temporary_bytes": alone.temp_size_in_bytes,
        **found,
        "compile_s": seconds,
        "parameters": count(leaves),
    }


def row(label: str, figures: dict[str, Any]) -> str:
    """Prints a layout as a line of the table."""
    parts = ("parameter_bytes", "state_bytes", "host_state_bytes", "temporary_bytes")
    per = [figures[part] / figures["parameters"] for part in parts]
    exchanged = "; ".join(
        ", ".join(
            f"{entry['count']} {kind} of {entry['bytes'] / figures['parameters']:.3f}"
            for kind, entry in figures[program].items()
        )
        or "none"
        for program in ("step", "with_backward_pass")
        if program in figures
    )
    return (
        f"{label:16} {per[0]:10.3f} {per[1]:6.3f} {per[2]:6.3f} {per[3]:11.3f} "
        f"{figures['compile_s']:5.1f}  {exchanged}"
    )


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Returns the lines of the page docs/guides/sharding.md, one for each layout."""
    lines = []
    for result in results:
        for label, figures in result["layouts"].items():
            gathered = figures["step"].get("all-gather", {"bytes": 0})["bytes"]
            cells = [
                *(figures["parameter_bytes"], figures["state_bytes"]),
                *(figures["host_state_bytes"], gathered, figures["temporary_bytes"]),
            ]
            shown = (f"{cell / figures['parameters']:.3f}" for cell in cells)
            lines.append(f"| {result['topology']} | {label} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _two_axes(mesh: Mesh) -> Mesh:
    """Divides 2**n devices into replicas of as many shards, or of twice as many."""
    replicas = 2 ** ((mesh.size.bit_length() - 1) // 2)
    types = (AxisType.Auto, AxisType.Auto)
    return Mesh(mesh.devices.reshape(replicas, -1), _BOTH, axis_types=types)


def _loss(params: Any, x: Any) -> Any:
    for kernel in params.values():
        x = jnp.tanh(x @ kernel)
    return jnp.mean(x**2)


def _held(tree: Any) -> int:
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )


def _collectives(moved: traffic.Traffic) -> dict[str, dict[str, int]]:
    return {
        kind: {"count": number, "bytes": moved.collective_bytes[kind]}
        for kind, number in sorted(moved.collectives.items())
    }
