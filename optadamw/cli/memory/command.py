"""Run `optadamw memory`: print the memory of each plan side by side."""

import argparse
import sys
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from optadamw.adamw import adamw
from optadamw.base.errors import renamed
from optadamw.cli.memory.shapes import decoder
from optadamw.reports.memory import memory_plan
from optadamw.reports.memory_table import MemoryPlan, scaled
from optadamw.reports.topology import topology_mesh
from optadamw.store.formats import blockwise

OPTIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "full": ("float32", "float32 moments", {"precision": "full"}),
    "mixed": ("bfloat16", "and the 16 bits to float32", {"precision": "mixed"}),
    "stochastic": ("bfloat16", "rounded at random", {"commit": "stochastic"}),
    "8-bit": (
        "float32",
        "8-bit moments",
        {"mu_dtype": blockwise(), "nu_dtype": blockwise()},
    ),
    "compact": (
        "bfloat16",
        "rounded at random, 8-bit moments",
        {"precision": "compact"},
    ),
}
"""The plans: dtype of the parameters, a description, and the arguments of `adamw`."""


def run(options: argparse.Namespace) -> int:
    """Print the plans side by side."""
    mesh: Mesh | AbstractMesh | None = None
    if options.topology:
        # Where libtpu is installed, JAX would look for a TPU in this machine.
        jax.config.update("jax_platforms", "cpu")
        try:
            mesh = topology_mesh(options.topology)
        except (ValueError, ModuleNotFoundError) as error:
            told = renamed(str(error), {"topology": "--topology"})
            print(f"optadamw memory: error: {told}", file=sys.stderr)
            return 1 if isinstance(error, ModuleNotFoundError) else 2
    elif options.devices > 1:
        mesh = AbstractMesh((options.devices,), ("devices",))
    devices = options.devices if mesh is None else mesh.size
    plans = {}
    for name in options.plan:
        dtype, _, arguments = OPTIONS[name]
        extra: dict[str, Any] = {"ema_decay": 0.999} if options.ema else {}
        if options.accumulate:
            extra["accumulate_steps"] = 2
        plans[name] = memory_plan(
            adamw(1e-3, **arguments, **extra),
            decoder(options.params, jnp.dtype(dtype), devices),
            mesh,
            temporaries=options.temporaries,
        )
    print(_table(plans, devices, options.topology))
    return 0


def _table(plans: dict[str, MemoryPlan], devices: int, topology: str | None) -> str:
    names = list(dict.fromkeys(name for plan in plans.values() for name in plan.shares))
    names.remove("counters")
    header = ["", *names, "persistent", "temporaries", "persistent", "peak"]
    rows = [header]
    for name, plan in plans.items():
        cells = [
            f"{plan.per_parameter(n):.2f}" if n in plan.shares else "-" for n in names
        ]
        kept = f"{plan.persistent.total / plan.count:.2f}"
        besides = "?"
        if plan.temporaries is not None:
            besides = f"{plan.temporaries * devices / plan.count:.2f}"
        total = scaled(plan.persistent.total)
        peak = scaled(plan.peak)
        if plan.temporaries is None:
            peak = f"> {peak}"
        rows.append([name, *cells, kept, besides, total, peak])
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    first = next(iter(plans.values()))
    unit = "device" if devices == 1 else "devices"
    besides = (
        f"temporaries as XLA takes them on {topology or first.platform}"
        if first.temporaries is not None
        else "temporaries not asked for"
    )
    legend = [
        f"{name}: {OPTIONS[name][0]} parameters, {OPTIONS[name][1]}" for name in plans
    ]
    return "\n".join(
        [
            f"A decoder of {first.count:,} parameters on {devices} {unit}. Bytes per "
            "parameter, then what stays on all devices and the peak on one; "
            f"{besides}.",
            "",
            *lines,
            "",
            *legend,
            *dict.fromkeys(f"note: {n}" for p in plans.values() for n in p.notes),
        ]
    )
