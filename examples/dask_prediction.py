"""Prediction with Dask over more samples than are in memory at any time, written to a file."""

import argparse
import tempfile
from pathlib import Path

import dask.array as da
import numpy as np

from fffnb import nn
from fffnb.bridges.dask import predict


def main() -> None:
    """Print how much was read and written, and check a few predictions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--chunk", type=int, default=10_000, help="samples in memory per worker")
    options = parser.parse_args()
    model = nn.Sequential(nn.FFF(64, 32, depth=8, n_trees=2), nn.ReLU(), nn.Linear(32, 10))
    samples = da.random.default_rng(0).standard_normal(
        (options.samples, 64), chunks=(options.chunk, 64), dtype=np.float32
    )
    classes = predict(model, samples).argmax(axis=1).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "classes.npy"
        written = np.lib.format.open_memmap(path, "w+", np.uint8, classes.shape)
        da.store(classes, written)  # chunk by chunk, on all cores
        first = nn.predict(model, samples[:100].compute()).argmax(axis=1)
        assert (written[:100] == first).all()
        print(f"{samples.nbytes / 1e6:.0f} MB of samples, {written.size:,} classes in {path.name}")
        del written


if __name__ == "__main__":
    main()
