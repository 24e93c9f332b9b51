"""Train a Flax linen module: `optadamw.adamw` is the `tx` of a `TrainState`."""

import digits
import jax
import optax
from flax import linen as nn
from flax.training.train_state import TrainState

import optadamw


class Network(nn.Module):
    """A hidden layer of 128 units."""

    @nn.compact
    def __call__(self, images):
        """Return the logits."""
        return nn.Dense(10)(nn.relu(nn.Dense(128)(images)))


@jax.jit
def step(state, images, labels):
    """Return the train state after a step on one batch."""

    def loss(params):
        logits = state.apply_fn({"params": params}, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return state.apply_gradients(grads=jax.grad(loss)(state.params))


def main():
    """Train, print and return the test accuracy."""
    training, (images, labels) = digits.load()
    network = Network()
    learning_rate = optax.cosine_decay_schedule(3e-3, digits.STEPS)
    state = TrainState.create(
        apply_fn=network.apply,
        params=network.init(jax.random.key(0), images)["params"],
        tx=optadamw.adamw(learning_rate, weight_decay=0.1, mask="*/kernel"),
    )
    for batch in digits.batches(training):
        state = step(state, *batch)
    logits = state.apply_fn({"params": state.params}, images)
    accuracy = float((logits.argmax(axis=-1) == labels).mean())
    print(f"test accuracy {accuracy:.2%}")
    return accuracy


if __name__ == "__main__":
    main()
