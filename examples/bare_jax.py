"""Train with JAX alone: parameters in a dict and one donated step."""

import functools

import digits
import jax
import jax.numpy as jnp
import optax

import optadamw


def initialize(key, sizes=(64, 128, 10)):
    """Return a random kernel and a zero bias for each layer."""
    keys = jax.random.split(key, len(sizes) - 1)
    return {
        f"layer{number}": {
            "kernel": jax.random.normal(key, (inputs, outputs)) / inputs**0.5,
            "bias": jnp.zeros(outputs),
        }
        for number, (key, inputs, outputs) in enumerate(
            zip(keys, sizes[:-1], sizes[1:], strict=True)
        )
    }


def logits(params, images):
    """Return the logits of two layers with a ReLU between them."""
    hidden = jax.nn.relu(images @ params["layer0"]["kernel"] + params["layer0"]["bias"])
    return hidden @ params["layer1"]["kernel"] + params["layer1"]["bias"]


def loss(params, images, labels):
    """Return the mean cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(
        logits(params, images), labels
    ).mean()


def main():
    """Train, print and return the test accuracy."""
    training, (images, labels) = digits.load()
    learning_rate = optax.cosine_decay_schedule(3e-3, digits.STEPS)
    tx = optadamw.adamw(learning_rate, weight_decay=0.1, mask="*/kernel")

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, images, labels):
        grads = jax.grad(loss)(params, images, labels)
        return tx.step(grads, state, params)

    params = initialize(jax.random.key(0))
    state = tx.init(params)
    for batch in digits.batches(training):
        params, state = step(params, state, *batch)
    accuracy = float((logits(params, images).argmax(axis=-1) == labels).mean())
    print(f"test accuracy {accuracy:.2%}")
    return accuracy


if __name__ == "__main__":
    main()
