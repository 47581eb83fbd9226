"""``python -m benchmarks.bridges sklearn``: `FFFClassifier` beside `MLPClassifier`.

Accuracy: cross-validation in five folds, both with their default parameters behind a
`StandardScaler`, the dense network with as many hidden neurons as the forest has. Prediction: the
time beside 4,096 hidden neurons, for all digits at once and for one, and the accuracy on a fifth of
them that was held out.
"""

from __future__ import annotations

import argparse
import time
import warnings
from functools import partial
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold, cross_val_score, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fffnb.bridges.sklearn import FFFClassifier
from fffnb.reference import tree as reference

from ..machine import median_seconds

#: Trees and depths with about 4,096 neurons.
FORESTS = ((16, 8), (8, 9), (4, 10), (1, 12))


def dense(neurons: int, **parameters: Any) -> MLPClassifier:
    """Return a dense network with one hidden layer."""
    return MLPClassifier(hidden_layer_sizes=(neurons,), random_state=0, **parameters)


def show_accuracy(folds: int) -> None:
    """Print the cross-validated accuracy of both on two data sets."""
    forest = FFFClassifier(random_state=0)
    neurons = forest.n_trees * (2**forest.depth - 1)
    print(f"{folds} folds, {neurons} hidden neurons       accuracy  deviation  seconds a fold")
    for name, load in (("digits", load_digits), ("breast cancer", load_breast_cancer)):
        x, y = load(return_X_y=True)
        for model in (forest, dense(neurons)):
            splits = StratifiedKFold(folds, shuffle=True, random_state=0)
            begin = time.perf_counter()
            scores = cross_val_score(make_pipeline(StandardScaler(), model), x, y, cv=splits)
            seconds = (time.perf_counter() - begin) / folds
            print(
                f"{name:15} {type(model).__name__:15} {100 * scores.mean():12.2f} %"
                f"  {100 * scores.std():7.2f} %  {seconds:14.1f}"
            )


def check(model: FFFClassifier, x: Any) -> None:
    """Refuse predictions that are not those of the reference."""
    nodes, bias, weight, intercept = model.model_.parameters.values()
    hidden = reference.forward(x, nodes, bias, model.activation).y
    logits = np.maximum(hidden, 0) @ weight + intercept
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = shares / shares.sum(axis=1, keepdims=True)
    tolerance = 1e-3 if x.dtype == np.float32 else 1e-9
    np.testing.assert_allclose(model.predict_proba(x), expected, atol=tolerance)


def show_prediction() -> None:
    """Print accuracy and time of `predict` beside 4,096 hidden neurons."""
    digits, labels = load_digits(return_X_y=True)
    print("\npredict, µs a sample                 accuracy   batch 1  × dense  all digits  × dense")
    for dtype in (np.float64, np.float32):
        x = StandardScaler().fit_transform(digits).astype(dtype)
        x_train, x_test, y_train, y_test = train_test_split(
            x, labels, test_size=0.2, stratify=labels, random_state=0
        )
        theirs: list[float] = []
        for model in (
            dense(4096),
            *(FFFClassifier(n_trees=n, depth=depth, random_state=0) for n, depth in FORESTS),
        ):
            model.fit(x_train, y_train)
            name = "dense, 4,096"
            if isinstance(model, FFFClassifier):
                check(model, x)
                name = f"{model.n_trees:2} trees of depth {model.depth:2}"
            times = [median_seconds(partial(model.predict, x[:n])) / n for n in (1, len(x))]
            theirs = theirs or times
            cells = "".join(
                f"  {1e6 * time:10.2f}  {other / time:7.1f}"
                for time, other in zip(times, theirs, strict=True)
            )
            accuracy = 100 * model.score(x_test, y_test)
            print(f"{np.dtype(dtype).name}, {name:23} {accuracy:6.2f} %{cells}", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bridges sklearn")
    parser.add_argument("--folds", type=int, default=5, help="0 leaves out the accuracy")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # the dense network stops at 200 epochs
    if options.folds:
        show_accuracy(options.folds)
    show_prediction()
