"""Estimators of scikit-learn: `FFFClassifier` and `FFFRegressor`.

The network is a forest of FFF trees, or another form of FFF, ReLU, and a linear layer. `fffnb.nn`
trains it with AdamW; trees on the rows that a batch visits, so the cost of a step follows their
depth.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from . import missing

try:
    from sklearn.base import ClassifierMixin, RegressorMixin
    from sklearn.utils.multiclass import check_classification_targets, unique_labels
except ModuleNotFoundError as error:
    raise missing("scikit-learn", "sklearn") from error

from .estimator import Array, Estimator


class FFFClassifier(ClassifierMixin, Estimator):  # type: ignore[misc]
    """Classifier of two or more classes: a forest of FFF trees, ReLU, a linear layer, softmax.

    Parameters
    ----------
    hidden_dim : int, default 32
        Width of the vector that the trees sum up and the linear layer reads.
    depth : int, default 3
        Levels of each tree: the neurons that a sample reads in it, of ``2**depth - 1``. Not of the
        forms "bag" and "keys".
    n_trees : int, default 16
        Number of trees, of bags, or of sets of keys.
    activation : {"identity", "relu", "gelu", "relu2", "silu", "tanh"}, default "gelu"
        Of the neurons in the trees.
    form : str, default "tree"
        "tree", "straight", "soft", "flat", "flat-patterns", "bag", "keys" or "leaf": see
        `fffnb.nn.make_layer`. The next five parameters are each of some forms alone.
    n_nodes : int, default 64
        Nodes of each bag.
    n_keys : int, default 16
        Product keys of each half of the features, whose number must be even.
    k : int or None, default 8
        How many nodes a sample chooses in each bag or by each set of keys; None, in bags alone: all
        of positive score.
    width : int, default 8
        Hidden neurons of each leaf.
    hardening : float, default 1.0
        Weight of the hardening loss of the forms "soft" and "leaf", which train softly: in `fit`
        their temperature falls from 1 to 0.1 along half a cosine.
    alpha : float, default 0.01
        Weight decay of AdamW: times the learning rate, the share that a step takes of the weights.
    batch_size : int or "auto", default "auto"
        Samples in a step; "auto" takes all if they are at most 256, else 32.
    learning_rate_init : float, default 4e-3
        Learning rate, which falls to 0 along half a cosine in `max_iter` epochs.
    max_iter : int, default 100
        Epochs.
    tol : float, default 1e-4
        What the loss must fall by in `n_iter_no_change` epochs, or training ends; soft training
        takes all epochs.
    n_iter_no_change : int, default 10
        See `tol`.
    early_stopping : bool, default False
        Set samples aside, look at their loss instead, and keep the parameters that gave the lowest.
    validation_fraction : float, default 0.1
        Share of the samples that `early_stopping` sets aside.
    warm_start : bool, default False
        Let `fit` go on from the parameters of the last call.
    random_state : int, RandomState or None, default None
        Draws the parameters, the order of the samples and those set aside.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
        The class labels.
    model_ : fffnb.nn.Sequential
        The network; `fffnb.nn.save_model` writes it to a file.
    loss_curve_ : list of float
        Training loss of each epoch.
    n_iter_ : int
        Epochs since the parameters were drawn.
    n_features_in_, feature_names_in_
        As in every estimator.

    Examples
    --------
    >>> import numpy as np
    >>> from fffnb.bridges.sklearn import FFFClassifier
    >>> X = np.random.default_rng(0).standard_normal((200, 2))
    >>> y = np.where(X[:, 0] * X[:, 1] > 0, "same", "other")
    >>> classifier = FFFClassifier(random_state=0).fit(X, y)
    >>> classifier.predict([[1, 1], [1, -1]])
    array(['same', 'other'], dtype='<U5')
    """

    _checks_of_y: ClassVar[dict[str, Any]] = {}

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Train for one epoch at the full learning rate, going on from the last call.

        Parameters
        ----------
        X, y, sample_weight
            See `fit`.
        classes : array-like, shape (n_classes,), optional
            All class labels; needed in the first call.

        Returns
        -------
        self
            The fitted estimator.

        Raises
        ------
        TypeError, ValueError
            As `fit`, or if `classes` is missing or not that of the first call.
        """
        anew = not hasattr(self, "model_")
        if classes is None and anew:
            raise ValueError("classes must be passed on the first call to partial_fit, got None")
        if classes is not None:
            classes = unique_labels(classes)
            if not anew and not np.array_equal(classes, self.classes_):
                raise ValueError(
                    f"classes must be those of the first call, {self.classes_}, got {classes}"
                )
        x, y, weights = self._begin(X, y, sample_weight, anew, classes)
        self._train(x, self._targets(y, weights), self._seed(), epochs=1)
        return self

    def predict(self, X: ArrayLike) -> Array:
        """Return the most probable class of each sample.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray, shape (n_samples,)
            Class labels.
        """
        places = self._output(X).argmax(axis=1)
        labels: Array = self.classes_[places]
        return labels

    def predict_proba(self, X: ArrayLike) -> Array:
        """Return the probability of each class.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray, shape (n_samples, n_classes)
            Probabilities, in the order of `classes_`.
        """
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: ArrayLike) -> Array:
        """Return the logarithm of the probability of each class.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray, shape (n_samples, n_classes)
            Logarithms, in the order of `classes_`.
        """
        return _log_softmax(self._output(X))

    def _encode(self, y: Array, anew: bool, classes: Array | None) -> Array:
        """Return labels as numbers; learn the classes if `anew`."""
        check_classification_targets(y)
        if anew:
            self.classes_ = np.unique(y) if classes is None else classes
            if len(self.classes_) < 2:
                only = self.classes_.tolist()[0]
                raise ValueError(f"y must hold at least two classes, got one class: {only!r}")
            self._n_out = len(self.classes_)
        known = np.isin(y, self.classes_)
        if not known.all():
            raise ValueError(
                f"y must hold the classes {self.classes_}, got also {np.unique(y[~known])}"
            )
        return np.searchsorted(self.classes_, y)

    def _strata(self, labels: Array) -> Array:
        """Return what the samples set aside must hold in the proportions of all."""
        return labels

    def _targets(self, labels: Array, weights: Array) -> Array:
        """Return rows that hold the weight of the sample in the column of its class."""
        targets = np.zeros((len(labels), self._n_out), weights.dtype)
        targets[np.arange(len(labels)), labels] = weights
        return targets

    @staticmethod
    def _loss(logits: Array, targets: Array) -> tuple[float, Array]:
        """Return the weighted mean of the cross-entropy and its gradient."""
        logs, total = _log_softmax(logits), targets.sum()
        gradient = (np.exp(logs) * targets.sum(axis=1, keepdims=True) - targets) / total
        return -float((targets * logs).sum() / total), gradient


class FFFRegressor(RegressorMixin, Estimator):  # type: ignore[misc]
    """Regressor of one or more targets: a forest of FFF trees, ReLU, a linear layer.

    It lowers the mean squared error, and takes the parameters of `FFFClassifier`. Targets should be
    scaled, as by `sklearn.compose.TransformedTargetRegressor`.

    Attributes
    ----------
    model_, loss_curve_, n_iter_, n_features_in_, feature_names_in_
        See `FFFClassifier`.

    Examples
    --------
    >>> import numpy as np
    >>> from fffnb.bridges.sklearn import FFFRegressor
    >>> X = np.random.default_rng(0).standard_normal((200, 2))
    >>> FFFRegressor(random_state=0).fit(X, X[:, 0] * X[:, 1]).predict([[1, 1]]).shape
    (1,)
    """

    _checks_of_y: ClassVar[dict[str, Any]] = {"multi_output": True, "y_numeric": True}

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Train for one epoch at the full learning rate, going on from the last call.

        Parameters
        ----------
        X, y, sample_weight
            See `fit`.

        Returns
        -------
        self
            The fitted estimator.

        Raises
        ------
        TypeError, ValueError
            As `fit`.
        """
        x, y, weights = self._begin(X, y, sample_weight, not hasattr(self, "model_"))
        self._train(x, self._targets(y, weights), self._seed(), epochs=1)
        return self

    def predict(self, X: ArrayLike) -> Array:
        """Return the targets.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray, shape (n_samples,) or (n_samples, n_outputs)
            Predicted targets; without a second axis if there is one output.
        """
        output = self._output(X)
        return output[:, 0] if self._n_out == 1 else output

    def _encode(self, y: Array, anew: bool, classes: Array | None) -> Array:
        """Return targets with two axes; learn the number of outputs if `anew`."""
        y = y.reshape(len(y), -1)
        if anew:
            self._n_out = y.shape[1]
        if y.shape[1] != self._n_out:
            raise ValueError(f"y must have {self._n_out} outputs, got {y.shape[1]}")
        return y

    def _strata(self, y: Array) -> None:
        """Return None: the samples set aside are drawn from all."""

    def _targets(self, y: Array, weights: Array) -> Array:
        """Return rows of the targets and the weight of a sample."""
        return np.column_stack([y.astype(weights.dtype), weights])

    @staticmethod
    def _loss(prediction: Array, targets: Array) -> tuple[float, Array]:
        """Return the weighted mean of the squared error and its gradient."""
        y, weights = targets[:, :-1], targets[:, -1:]
        difference, total = prediction - y, weights.sum() * y.shape[1]
        gradient = weights * difference * (2 / total)
        return float((weights * difference**2).sum() / total), gradient

    def __sklearn_tags__(self) -> Any:
        """Return the tags of scikit-learn."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _log_softmax(logits: Array) -> Array:
    """Return the logarithm of the softmax over the last axis."""
    shifted: Array = logits - logits.max(axis=1, keepdims=True)
    logs: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs
