"""Data-parallel training on a Dask cluster: what travels is the rows visited, not the model.

Each worker keeps a replica of the model and its share of the samples. In every step they compute
gradients of the rows that their samples visit, the client sums them, and all take the same step.
"""

import numpy as np
from dask.distributed import Client, LocalCluster

from fffnb import data, nn
from fffnb.bridges.dask import sum_gradients


class Replica:
    """A model, its optimiser and a share of the samples, on one worker."""

    def __init__(self, x, y, n_samples):
        """Draw the same model on every worker."""
        forest = nn.FFF(64, 32, depth=6, n_trees=2, dtype=float)
        self.model = nn.Sequential(forest, nn.ReLU(), nn.Linear(32, 10, dtype=float))
        self.optimizer = nn.AdamW(self.model.parameters, lr=1e-2)
        self.x, self.y, self.share = x, y, len(x) / n_samples

    def gradients(self):
        """Return the gradients of the mean loss over all samples, as far as these make it."""
        output, trace = self.model.forward(self.x)
        gradient = nn.softmax_cross_entropy(output, self.y)[1]
        return self.model.backward(gradient * self.share, trace, sparse=True)[1]

    def step(self, gradients):
        """Take the same step as all others; return the parameters, which a real run would not."""
        self.optimizer.step(gradients)
        return self.model.parameters


def main() -> None:
    """Train on two workers and alone, and print how far apart the parameters are."""
    digits = data.load("digits")
    x, y = digits.x_train.astype(float), digits.y_train
    alone = Replica(x, y, len(x))
    local = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with local as cluster, Client(cluster) as client:
        replicas = [
            client.submit(Replica, *shares, len(x), workers=[worker], actor=True).result()
            for *shares, worker in zip(
                np.array_split(x, 2), np.array_split(y, 2), client.nthreads(), strict=True
            )
        ]
        for _ in range(20):
            futures = [replica.gradients() for replica in replicas]
            total = sum_gradients(future.result() for future in futures)
            steps = [replica.step(total) for replica in replicas]
            expected = alone.step(alone.gradients())
            found = [step.result() for step in steps]
    apart = max(abs(each[name] - expected[name]).max() for each in found for name in expected)
    print(f"accuracy {nn.accuracy(alone.model, x, y):.3f}, parameters apart by {apart:.1e}")


if __name__ == "__main__":
    main()
