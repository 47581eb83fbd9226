"""Train a network of two FFF layers on scikit-learn's digits, with `jax.grad` and plain SGD."""

import jax
import numpy as np
from jax import numpy as jnp

import fffnb
from fffnb import data

EPOCHS, BATCH, RATE = 30, 32, 0.2


def predict(layers, x):
    """Return the scores of the classes, (batch, 10)."""
    hidden, output = layers
    return output(jax.nn.relu(hidden(x)))


def loss(layers, x, labels):
    """Return the mean cross-entropy."""
    logs = jax.nn.log_softmax(predict(layers, x))
    return -jnp.take_along_axis(logs, labels[:, None], axis=1).mean()


def step(layers, x, labels):
    """Return the layers after a step."""
    grads = jax.grad(loss)(layers, x, labels)
    return jax.tree.map(lambda weight, grad: weight - RATE * grad, layers, grads)


def main():
    """Train, and return the accuracy on samples that were held back."""
    digits = data.load("digits")
    layers = (
        fffnb.FFF(64, 64, depth=5, n_trees=4, activation="gelu", bias=True, backend="jax"),
        fffnb.FFF(64, 10, depth=5, n_trees=4, bias=True, rng=1, backend="jax"),
    )
    jitted = jax.jit(step, donate_argnums=0)  # the old parameters' memory serves for the new ones
    rng = np.random.default_rng(0)
    for _ in range(EPOCHS):
        order = rng.permutation(len(digits.x_train))
        for chosen in order[: len(order) // BATCH * BATCH].reshape(-1, BATCH):
            layers = jitted(layers, digits.x_train[chosen], digits.y_train[chosen])
    found = jax.jit(predict)(layers, digits.x_test).argmax(axis=1)
    return float((found == digits.y_test).mean())


if __name__ == "__main__":
    print(f"accuracy {main():.1%}")
