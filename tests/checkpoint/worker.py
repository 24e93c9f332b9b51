"""A process that trains with everything on, or takes up such a run at every call."""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import optadamw
from optadamw import checkpoint
from tests.support import trees

CALLS = 7
KINDS: trees.Kinds = trees.MIXED | {
    "wide": (jnp.float64, (5, 3)),  # float32 without x64
    "wide phase": (jnp.complex128, (3,)),
}


def transformation() -> Any:
    """Everything that a step can do, with windows of 3."""
    return optadamw.adamw(
        0.03,
        mu_dtype="bfloat16",
        weight_decay=0.1,
        mask="kernel*",
        amsgrad=True,
        clip_global_norm=1.0,
        ema_decay=0.7,
        accumulate_steps=3,
        skip_nonfinite=True,
        skip_spikes=True,
        loss_scale=optadamw.DynamicLossScale(initial=8.0, growth_interval=2),
        stats="norms",
    )


def grads(call: int) -> Any:
    """The gradients of one call; one of them is bad."""
    made = trees.normal(KINDS, seed=1 + call)
    return made | ({"bias": made["bias"] * jnp.nan} if call == 4 else {})


def run(folder: Path) -> None:
    """Train without interruption, saving before every call."""
    tx, params = transformation(), trees.normal(KINDS, seed=0)
    state, step = tx.init(params), tx.jit_step
    for call in range(CALLS):
        checkpoint.save(folder / f"{call}.npz", tx, state, params)
        params, state = step(grads(call), state, params)
    checkpoint.save(folder / "end.npz", tx, state, params)


def resume(folder: Path) -> None:
    """Take the run up at every call, and compare where it ends."""
    tx = transformation()
    shapes = jax.eval_shape(lambda: trees.normal(KINDS, seed=0))
    end = checkpoint.load(folder / "end.npz")
    for start in range(CALLS):
        saved = checkpoint.load(folder / f"{start}.npz")
        params = checkpoint.params_of(saved, shapes)
        state, report = checkpoint.restore(tx, params, saved)
        assert report.is_whole and not report.notes, report
        for call in range(start, CALLS):
            params, state = tx.jit_step(grads(call), state, params)
        here = checkpoint.opened(checkpoint.to_portable(tx, state, params))
        assert here.arrays.keys() == end.arrays.keys()
        for name, array in end.arrays.items():
            assert here.arrays[name].dtype == array.dtype, name
            assert here.arrays[name].tobytes() == array.tobytes(), (start, name)
    print(f"resumed {CALLS} times")


if __name__ == "__main__":
    {"run": run, "resume": resume}[sys.argv[1]](Path(sys.argv[2]))
