"""Train a Flax NNX module: `optadamw.adamw` is the `tx` of an `nnx.Optimizer`."""

import digits
import optax
from flax import nnx

import optadamw


class Network(nnx.Module):
    """A hidden layer of 128 units."""

    def __init__(self, *, rngs):
        self.hidden = nnx.Linear(64, 128, rngs=rngs)
        self.output = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, images):
        """Return the logits."""
        return self.output(nnx.relu(self.hidden(images)))


@nnx.jit
def step(model, optimizer, images, labels):
    """Update the model in place with a step on one batch."""

    def loss(model):
        logits = model(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    optimizer.update(model, nnx.grad(loss)(model))


def main():
    """Train, print and return the test accuracy."""
    training, (images, labels) = digits.load()
    model = Network(rngs=nnx.Rngs(0))
    learning_rate = optax.cosine_decay_schedule(3e-3, digits.STEPS)
    tx = optadamw.adamw(learning_rate, weight_decay=0.1, mask="*/kernel")
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    for batch in digits.batches(training):
        step(model, optimizer, *batch)
    accuracy = float((model(images).argmax(axis=-1) == labels).mean())
    print(f"test accuracy {accuracy:.2%}")
    return accuracy


if __name__ == "__main__":
    main()
