"""Does the best learning rate of a narrow model transfer to a wide one with `mup`?

    python -m benchmarks.widths --output widths.json

A network of four layers learns the digits of scikit-learn at several widths and
learning rates, in the usual parametrization and with `optadamw.mup`. All learning rates
and seeds of a width are one compiled program: `adjustable` under `jax.vmap`.
"""

import argparse
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

import optadamw

DEPTH = 2
"""Number of hidden layers between the first and the last one."""
BATCH = 64
BASE = 64
"""The width at which a learning rate would be tuned."""
WARMUP = 10

Params = dict[str, Any]


def data() -> tuple[np.ndarray, np.ndarray]:
    """Return images of mean 0 and deviation 1 in all, and their digits."""
    digits = load_digits()
    images = digits.data.astype(np.float32)
    return (images - images.mean()) / images.std(), digits.target


def initial(key: jax.Array, width: int, is_mup: bool) -> Params:
    """Return the first parameters; only the last layer differs between the two."""
    keys = jax.random.split(key, DEPTH + 2)
    last = BASE if is_mup else width
    return {
        "first": jax.random.normal(keys[0], (64, width)) * math.sqrt(2 / 64),
        "hidden": [
            jax.random.normal(k, (width, width)) * math.sqrt(2 / width)
            for k in keys[1:-1]
        ],
        "last": jax.random.normal(keys[-1], (width, 10)) * math.sqrt(1 / last),
    }


def loss_of(params: Params, x: jax.Array, y: jax.Array, multiplier: float) -> jax.Array:
    """Return the mean cross entropy; `multiplier` stands before the logits."""
    x = jax.nn.relu(x @ params["first"])
    for kernel in params["hidden"]:
        x = jax.nn.relu(x @ kernel)
    logits = multiplier * (x @ params["last"])
    return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(y)), y])


def trained(
    key: jax.Array, rate: jax.Array, width: int, steps: int, is_mup: bool
) -> jax.Array:
    """Return the mean loss of all images after `steps` steps with one learning rate."""
    images, digits = (jnp.asarray(array) for array in data())
    first, order = jax.random.split(key)
    params = initial(first, width, is_mup)
    shapes = jax.eval_shape(partial(initial, width=BASE, is_mup=is_mup), first)
    warmup = optadamw.schedules.linear_schedule(1 / WARMUP, 1.0, WARMUP)
    schedule = optadamw.adjustable(1.0, name="rate") * warmup
    groups = optadamw.mup(params, shapes, schedule) if is_mup else None
    tx = optadamw.adamw(schedule, weight_decay=0.0, groups=groups)
    state = tx.with_hyperparameters(tx.init(params), rate=rate)
    multiplier = BASE / width if is_mup else 1.0

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        params, state = carry
        at = jax.random.randint(key, (BATCH,), 0, len(images))
        grads = jax.grad(loss_of)(params, images[at], digits[at], multiplier)
        return tx.step(grads, state, params), None

    keys = jax.random.split(order, steps)
    (params, _), _ = jax.lax.scan(step, (params, state), keys)
    return loss_of(params, images, digits, multiplier)


def curve(
    width: int, rates: np.ndarray, seeds: int, steps: int, is_mup: bool
) -> list[float]:
    """Return the mean of the final losses over the seeds, for each learning rate."""
    keys = jax.random.split(jax.random.key(0), seeds)
    one = partial(trained, width=width, steps=steps, is_mup=is_mup)
    each = jax.vmap(jax.vmap(one, (0, None)), (None, 0))
    losses = np.asarray(jax.jit(each)(keys, jnp.asarray(rates, jnp.float32)))
    # The logarithm, so that no seed of a rate that is too large decides alone.
    return np.exp(np.mean(np.log(losses), axis=1)).tolist()


def main() -> None:
    """Train at every width, print the curves and the best rates, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--widths", nargs="+", type=int, default=[64, 128, 256, 512])
    parser.add_argument("--rates", nargs=2, type=int, default=[-12, -3])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    exponents = np.arange(chosen.rates[0], chosen.rates[1] + 0.25, 0.5)
    found: dict[str, Any] = {"exponents": exponents.tolist(), "steps": chosen.steps}
    for name, is_mup in (("usual", False), ("mup", True)):
        print(
            f"{name}: width, log2 of the best rate, its loss, loss at the base's best"
        )
        best = None
        rows = found[name] = {}
        for width in chosen.widths:
            losses = curve(width, 2.0**exponents, chosen.seeds, chosen.steps, is_mup)
            place = int(np.nanargmin(losses))
            best = place if best is None else best
            rows[width] = losses
            print(
                f"{width:5} {exponents[place]:6.1f} {losses[place]:8.4f} "
                f"{losses[best]:8.4f}",
                flush=True,
            )
    if chosen.output:
        chosen.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
