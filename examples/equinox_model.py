"""Train an Equinox module: its inexact arrays are the parameters."""

import digits
import equinox as eqx
import jax
import optax

import optadamw


def loss(model, images, labels):
    """Return the mean cross-entropy."""
    logits = jax.vmap(model)(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def main():
    """Train, print and return the test accuracy."""
    training, (images, labels) = digits.load()
    model = eqx.nn.MLP(64, 10, width_size=128, depth=1, key=jax.random.key(0))
    learning_rate = optax.cosine_decay_schedule(3e-3, digits.STEPS)
    tx = optadamw.adamw(learning_rate, weight_decay=0.1, mask="*/weight")
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit(donate="all-except-first")
    def step(batch, model, state):
        params, static = eqx.partition(model, eqx.is_inexact_array)
        grads = eqx.filter_grad(loss)(model, *batch)
        params, state = tx.step(grads, state, params)
        return eqx.combine(params, static), state

    for batch in digits.batches(training):
        model, state = step(batch, model, state)
    predictions = jax.vmap(model)(images).argmax(axis=-1)
    accuracy = float((predictions == labels).mean())
    print(f"test accuracy {accuracy:.2%}")
    return accuracy


if __name__ == "__main__":
    main()
