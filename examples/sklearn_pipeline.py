"""A scikit-learn pipeline: scale the digits, search for the best forest in two processes."""

import argparse

from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fffnb.bridges.sklearn import FFFClassifier


def main() -> None:
    """Print what was chosen, and its accuracy on samples that the search has not seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    x_train, x_test, y_train, y_test = train_test_split(
        *load_digits(return_X_y=True), test_size=0.2, random_state=0
    )
    pipeline = make_pipeline(
        StandardScaler(), FFFClassifier(max_iter=options.epochs, random_state=0)
    )
    shapes = [  # about as many neurons, in few deep trees or many shallow ones
        {"fffclassifier__n_trees": [2], "fffclassifier__depth": [6]},
        {"fffclassifier__n_trees": [8], "fffclassifier__depth": [4]},
    ]
    search = GridSearchCV(pipeline, shapes, cv=3, n_jobs=2).fit(x_train, y_train)
    print(f"chosen: {search.best_params_}")
    print(f"test accuracy: {search.score(x_test, y_test):.3f}")


if __name__ == "__main__":
    main()
