"""Compare variants of AdamW on the demo's network, each with its best numbers.

    python -m benchmarks.variants --output variants.json

Every contender trains the network of `optadamw demo` on the digits of scikit-learn at
each pair of a learning rate and a weight decay, with several seeds. The pair with the
smallest mean validation loss is chosen, and its test loss is reported. Beside it stand
the temporaries of its step, as a share of the parameters' bytes, and the time of the
step as a multiple of AdamW's, of four parameters of 4M numbers each.
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optadamw
from optadamw.cli.demo.digits import DIGITS
from optadamw.cli.demo.task import Examples, Splits
from optadamw.schedules import (
    linear_schedule,
    slow_moment_schedule,
    warmup_cosine_decay_schedule,
)

BATCH = 64
RATES = [2.0**k for k in (-7.0, -6.0, -5.0, -4.0)]
DECAYS = [0.2]
ROWS = 4096


def slow(b3: float, alpha: float, steps: int) -> dict[str, Any]:
    """Return the options of AdEMAMix with the schedules of its paper."""
    return {
        "b3": slow_moment_schedule(0.9, b3, steps),
        "slow_alpha": linear_schedule(alpha / steps, alpha, steps - 1),
    }


def variant(steps: int, **options: Any) -> optadamw.Transformation:
    """Return AdamW with options, warm-up and decay; rate and decay are adjustable."""
    shape = warmup_cosine_decay_schedule(0.0, 1.0, max(steps // 10, 1), steps)
    return optadamw.adamw(
        optadamw.adjustable(1.0, name="peak") * shape,
        weight_decay=optadamw.adjustable(0.0),
        **options,
    )


def schedule_free(steps: int) -> optadamw.Transformation:
    """Return schedule-free AdamW with a warm-up of the same length."""
    return optadamw.schedule_free_adamw(
        optadamw.adjustable(1.0, name="peak"),
        weight_decay=optadamw.adjustable(0.0, name="weight_decay"),
        warmup_steps=max(steps // 10, 1),
    )


CONTENDERS: dict[str, Callable[[int], optadamw.Transformation]] = {
    "adamw": variant,
    "caution": lambda steps: variant(steps, caution=True),
    "cautious_weight_decay": lambda steps: variant(steps, cautious_weight_decay=True),
    "clip_update_rms": lambda steps: variant(steps, clip_update_rms=1.0),
    "ademamix": lambda steps: variant(steps, **slow(0.99, 5.0, steps)),
    "schedule_free": schedule_free,
}
"""The optimizer of each contender, for a training of so many steps."""


def loss_of(params: Any, examples: Examples) -> jax.Array:
    """Return the mean cross entropy."""
    logits = DIGITS.logits(params, examples.inputs)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, examples.labels)
    return jnp.mean(losses)


def trained(
    make: Callable[[int], optadamw.Transformation],
    steps: int,
    data: Splits,
    params: Any,
    key: jax.Array,
    rate: jax.Array,
    decay: jax.Array,
) -> jax.Array:
    """Return validation and test loss after a training with warm-up and decay."""
    tx = make(steps)
    state = tx.with_hyperparameters(tx.init(params), peak=rate, weight_decay=decay)

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        params, state = carry
        which, moves = jax.random.split(key)
        at = jax.random.randint(which, (BATCH,), 0, len(data.training.labels))
        images = DIGITS.vary(data.training.inputs[at], moves)
        batch = Examples(images, data.training.labels[at])
        grads = jax.grad(loss_of)(params, batch)
        return tx.step(grads, state, params), None

    carry, _ = jax.lax.scan(step, (params, state), jax.random.split(key, steps))
    params, state = carry
    if state.ema is not None:
        params = optadamw.ema_of(state)
    return jnp.stack([loss_of(params, part) for part in data[1:]])


def compared(
    make: Callable[[int], optadamw.Transformation], seeds: int, steps: int
) -> dict[str, Any]:
    """Train one contender at every point of the grid; return the best and its loss."""
    networks = [DIGITS.initial(seed) for seed in range(seeds)]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
    keys = jax.random.split(jax.random.key(1), seeds)
    one = partial(trained, make, steps, DIGITS.load())
    each = jax.jit(jax.vmap(one, (0, 0, None, None)))
    rows = []
    for rate, decay in itertools.product(RATES, DECAYS):
        losses = np.asarray(each(params, keys, jnp.float32(rate), jnp.float32(decay)))
        rows.append((rate, decay, losses))
    rate, decay, losses = min(rows, key=lambda row: float(np.mean(row[2][:, 0])))
    test = losses[:, 1]
    return {
        "learning_rate": rate,
        "weight_decay": decay,
        "validation": float(np.mean(losses[:, 0])),
        "test": float(np.mean(test)),
        "error": float(np.std(test, ddof=1) / math.sqrt(seeds)) if seeds > 1 else 0.0,
        "seeds": test.tolist(),
    }


class Stepper:
    """The compiled step of a contender, with its arrays."""

    def __init__(self, tx: optadamw.Transformation, rows: int) -> None:
        shapes = {f"w{i}": jax.ShapeDtypeStruct((rows, 1024), "f4") for i in range(4)}
        self.grads = jax.tree.map(lambda s: jnp.ones(s.shape), shapes)
        params = jax.tree.map(lambda s: jnp.zeros(s.shape), shapes)
        self.held = params, tx.init(params)
        lowered = tx.jit_step.lower(self.grads, self.held[1], self.held[0])
        size = sum(x.nbytes for x in jax.tree.leaves(params))
        memory = lowered.compile().memory_analysis()
        self.temporaries = memory.temp_size_in_bytes / size
        self.step = tx.jit_step

    def time(self) -> float:
        """Take one step in place and return its seconds."""
        params, state = self.held
        start = time.perf_counter()
        self.held = self.step(self.grads, state, params)
        jax.block_until_ready(self.held)
        return time.perf_counter() - start


def cost(tx: optadamw.Transformation, rows: int, rounds: int) -> dict[str, float]:
    """Return temporaries and time of a step, beside AdamW's in turns."""
    plain, other = Stepper(variant(100), rows), Stepper(tx, rows)
    times = [(plain.time(), other.time()) for _ in range(rounds + 1)][1:]
    ratio = float(np.median([own / base for base, own in times]))
    return {"temporaries": other.temporaries, "time": ratio}


def main() -> None:
    """Compare all contenders, print a row for each, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    found: dict[str, Any] = {"steps": chosen.steps, "rows": chosen.rows}
    for name in chosen.contenders:
        make = CONTENDERS[name]
        row = compared(make, chosen.seeds, chosen.steps)
        row |= cost(make(chosen.steps), chosen.rows, chosen.rounds)
        found[name] = row
        print(
            f"{name:22} rate {row['learning_rate']:.4g} decay {row['weight_decay']:.4g}"
            f"  test {row['test']:.4f} +- {row['error']:.4f}"
            f"  temporaries {row['temporaries']:.3f}  time {row['time']:.2f}",
            flush=True,
        )
        if chosen.output:
            chosen.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
