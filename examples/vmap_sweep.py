"""Train 4 learning rates x 4 weight decays in one program that is traced once."""

from typing import NamedTuple

import bare_jax
import digits
import jax
import jax.numpy as jnp

import optadamw


class Sweep(NamedTuple):
    """The test accuracies of a sweep; `traces` counts traces of the training."""

    learning_rates: jax.Array
    weight_decays: jax.Array
    accuracies: jax.Array
    traces: int


def main():
    """Train every pair, print the test accuracies and return the sweep."""
    training, (images, labels) = digits.load()
    batches = jax.tree.map(lambda *rows: jnp.stack(rows), *digits.batches(training))
    traces = 0

    def train(learning_rate, weight_decay):
        nonlocal traces
        traces += 1
        tx = optadamw.adamw(learning_rate, weight_decay=weight_decay, mask="*/kernel")
        params = bare_jax.initialize(jax.random.key(0))

        def step(carry, batch):
            params, state = carry
            grads = jax.grad(bare_jax.loss)(params, *batch)
            return tx.step(grads, state, params), None

        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), batches)
        return (bare_jax.logits(params, images).argmax(axis=-1) == labels).mean()

    learning_rates = jnp.array([3e-4, 1e-3, 3e-3, 1e-2])
    weight_decays = jnp.array([0.0, 0.01, 0.1, 1.0])
    over_decays = jax.vmap(train, in_axes=(None, 0))
    over_both = jax.jit(jax.vmap(over_decays, in_axes=(0, None)))
    accuracies = over_both(learning_rates, weight_decays)

    print("test accuracy   " + "".join(f"decay {d:<6g}" for d in weight_decays))
    for rate, row in zip(learning_rates, accuracies, strict=True):
        print(f"rate {rate:<10g} " + "".join(f"{a:<12.2%}" for a in row))
    print(f"{accuracies.size} trainings; traced {traces} time(s)")
    return Sweep(learning_rates, weight_decays, accuracies, traces)


if __name__ == "__main__":
    main()
