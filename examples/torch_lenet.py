"""LeNet with FFF layers for its head: on CIFAR-10, or without its folder on scikit-learn's digits.

The FFF layers have row gradients, which the same optimiser takes that trains the convolutions.
"""

import argparse

import torch
from torch import nn
from torch.nn.functional import cross_entropy, interpolate

from fffnb import data
from fffnb.bridges.torch import FFF, AdamW


def lenet(channels, n_classes):
    """Return the network for images of 32 x 32 pixels."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        FFF(400, 84, depth=5, n_trees=4, activation="gelu", gradient="rows"),
        FFF(84, n_classes, depth=4, n_trees=4, activation="gelu", gradient="rows"),
    )


def images(x, side):
    """Return flat rows of planes of pixels as images of 32 x 32 pixels."""
    planes = torch.from_numpy(x).reshape(len(x), -1, side, side)
    return planes if side == 32 else interpolate(planes, (32, 32))


def main():
    """Train, and print the accuracy on the test images after every epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", help="folder with CIFAR-10's binary files")
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    side = 32 if options.data_dir else 8
    found = data.load("cifar10", options.data_dir) if options.data_dir else data.load("digits")
    x_train, x_test = images(found.x_train, side), images(found.x_test, side)
    y_train, y_test = torch.from_numpy(found.y_train), torch.from_numpy(found.y_test)
    model = lenet(x_train.shape[1], found.n_classes)
    optimizer = AdamW(model.parameters(), lr=2e-3)
    for epoch in range(options.epochs):
        for batch in torch.randperm(len(x_train)).split(64):
            optimizer.zero_grad()
            cross_entropy(model(x_train[batch]), y_train[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            guesses = torch.cat([model(part).argmax(1) for part in x_test.split(1000)])
        print(f"epoch {epoch + 1}: accuracy {(guesses == y_test).float().mean():.4f}", flush=True)


if __name__ == "__main__":
    main()
