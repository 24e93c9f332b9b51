"""Time steps by kernels on several devices of one CPU, beside XLA's path.

    python -m benchmarks.devices --output cpu-devices.json

The devices are those of `--xla_force_host_platform_device_count`: each number of them
has a process of its own. Parameters lie on Auto axes, divided along their first axis or
replicated. Each step is waited for, and everything is donated.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import optadamw
from benchmarks import environment, timing

LAYOUTS = ((8, "divided"), (8, "replicated"), (2, "divided"))
"""How many devices there are, and how parameters lie on them."""

TREES: Mapping[str, tuple[tuple[int, ...], ...]] = {
    "4 leaves of 2M": ((2048, 1024),) * 4,
    "16 leaves of 0.5M, 16 of 512": ((1024, 512),) * 16 + ((512,),) * 16,
}
QUICK: Mapping[str, tuple[tuple[int, ...], ...]] = {"2 small leaves": ((16, 32), (32,))}

CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "adamw": {},
    "clip-ema": {"clip_global_norm": 1.0, "ema_decay": 0.99},
    "8-bit": {
        "mu_dtype": optadamw.blockwise(),
        "nu_dtype": optadamw.blockwise(),
    },
}
WAYS = {"optadamw+native": "native", "optadamw+xla": "xla"}
PATIENCE = 10.0
"""Seconds to wait for a quiet machine, and to repeat disturbed rounds, in each case."""


class Training:
    """A compiled step with its arrays."""

    def __init__(
        self, kernel: str, config: str, shapes: tuple[tuple[int, ...], ...], layout: str
    ) -> None:
        mesh = jax.make_mesh(
            (jax.device_count(),), ("data",), axis_types=(AxisType.Auto,)
        )

        def laid(seed: int) -> list[jax.Array]:
            rng = np.random.default_rng(seed)
            return [
                jax.device_put(
                    jnp.asarray(rng.normal(size=shape), jnp.float32),
                    NamedSharding(
                        mesh,
                        PartitionSpec("data")
                        if layout == "divided" and len(shape) > 1
                        else PartitionSpec(),
                    ),
                )
                for shape in shapes
            ]

        tx = optadamw.adamw(1e-3, kernel=kernel, **CONFIGS[config])
        self._params, self._grads = laid(0), laid(1)
        self._state = tx.init(self._params)
        step = jax.jit(lambda p, s, g: tuple(tx.step(g, s, p)), donate_argnums=(0, 1))
        given = self._params, self._state, self._grads
        self._step = step.lower(*given).compile()

    def move(self) -> None:
        """Copy all arrays to new memory."""
        held = self._params, self._state, self._grads
        self._params, self._state, self._grads = jax.tree.map(jnp.copy, held)

    def step(self) -> None:
        """Start one step."""
        found = self._step(self._params, self._state, self._grads)
        self._params, self._state = found

    def wait(self) -> None:
        """Wait for all results."""
        jax.block_until_ready((self._params, self._state))


def case(
    config: str, tree: str, layout: str, rounds: int, *, quick: bool
) -> dict[str, Any]:
    """Time both ways in turn."""
    shapes = (QUICK if quick else TREES)[tree]
    ways = {
        name: Training(kernel, config, shapes, layout) for name, kernel in WAYS.items()
    }
    samples, disturbance = timing.alternate(
        ways,
        lambda _: True,
        rounds,
        burst=2,
        patience=0.0 if quick else PATIENCE,
        seed=0,
    )
    return {
        **{"config": config, "tree": tree, "devices": jax.device_count()},
        "layout": layout,
        "contenders": {name: {"step_s": samples[name]} for name in ways},
        "disturbance": {"step": disturbance},
    }


def cases(count: int, rounds: int, *, quick: bool) -> list[dict[str, Any]]:
    """Return the cases of a number of devices, from a process of their own."""
    flags = f"--xla_force_host_platform_device_count={count}"
    command = [sys.executable, "-m", __spec__.name, "--count", str(count)]
    command += ["--rounds", str(rounds), *(["--quick"] if quick else [])]
    found = subprocess.run(
        command,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    read: list[dict[str, Any]] = json.loads(found.stdout)
    return read


def main() -> None:
    """Time all cases and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="small leaves, 2 devices")
    parser.add_argument("--count", type=int, help="only print this process's cases")
    parser.add_argument("--output", type=Path, default=Path("cpu-devices.json"))
    asked = parser.parse_args()
    layouts = ((2, "divided"),) if asked.quick else LAYOUTS
    if asked.count is not None:
        json.dump(
            [
                case(config, tree, layout, asked.rounds, quick=asked.quick)
                for count, layout in layouts
                if count == asked.count
                for config in CONFIGS
                for tree in (QUICK if asked.quick else TREES)
            ],
            sys.stdout,
        )
        return
    found = [
        one
        for count in sorted({count for count, _ in layouts})
        for one in cases(count, asked.rounds, quick=asked.quick)
    ]
    report = {
        "versions": environment.versions(),
        "source": environment.commit(),
        "machine": environment.machine(),
        "settings": {"rounds": asked.rounds, "threads": os.cpu_count()},
        "cases": found,
    }
    asked.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
