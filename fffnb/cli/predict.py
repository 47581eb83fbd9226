"""``fffnb predict``: the accuracy of a model, or its predictions in a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from .. import data, files, nn
from .options import add_data


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to a parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "predict",
        help="the accuracy of a model, or its predictions in a file",
        description="Print the accuracy of a model on the test samples of a data set, or write "
        "the predicted class of each sample to a file.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a model that train wrote")
    add_data(parser, None, "the data that the model was trained on")
    parser.add_argument(
        "--input",
        type=Path,
        metavar="FILE",
        help="a .npy file (samples, features), not --data",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="predictions, as .npy or .csv")
    return parser


def run(options: argparse.Namespace) -> int:
    """Predict, then print the accuracy or write the predictions."""
    if options.output and options.output.suffix not in (".npy", ".csv"):
        raise ValueError(f"--output must end in .npy or .csv, got {options.output}")
    if options.input and not options.output:
        raise ValueError("--input needs --output, as it has no labels to compare with")
    model = nn.load_model(options.model)
    if options.input:
        x, labels = read_samples(options.input), None
    else:
        name = options.data or nn.load_metadata(options.model).get("data")
        if name is None:
            raise ValueError(f"{options.model} does not name its data: --data must be given")
        dataset = data.load(name, options.data_dir)
        x, labels = dataset.x_test, dataset.y_test
    predictions = nn.predict(model, x).argmax(axis=1)
    if labels is not None:
        correct = int(np.count_nonzero(predictions == labels))
        print(f"accuracy: {100 * correct / len(labels):.2f} % ({correct:,} of {len(labels):,})")
    if options.output:
        write_predictions(options.output, predictions)
        print(f"predictions: {options.output} ({len(predictions):,} samples)")
    return 0


def read_samples(path: Path) -> np.ndarray:
    """Read samples without labels."""
    try:
        x = np.load(path, allow_pickle=False)
    except (EOFError, ValueError) as error:
        raise ValueError(f"{path} is no .npy file: {error}") from error
    if not isinstance(x, np.ndarray) or x.ndim != 2 or x.dtype.kind not in "fiu":
        came = f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else "an .npz file"
        raise ValueError(f"{path} must hold numbers of shape (samples, features), got {came}")
    return x.astype(np.float32)


def write_predictions(path: Path, predictions: np.ndarray) -> None:
    """Write one class per sample, as an array or as text, whole or not at all."""
    with files.replacing(path) as temporary, open(temporary, "wb") as stream:
        if path.suffix == ".npy":
            np.save(stream, predictions)
        else:
            np.savetxt(stream, predictions, fmt="%d", header="class", comments="")
