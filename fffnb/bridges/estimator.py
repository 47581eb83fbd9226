"""What the estimators of `fffnb.bridges.sklearn` share: parameters, training, pickling."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import nn
from ..nn.forms import find_form
from ..nn.soft_layer import soft_layers
from . import missing

try:
    from sklearn.base import BaseEstimator
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_array, check_random_state, check_scalar
    from sklearn.utils.validation import check_is_fitted, validate_data
except ModuleNotFoundError as error:
    raise missing("scikit-learn", "sklearn") from error

Array = NDArray[Any]

#: ``batch_size="auto"``: so many samples at most make one batch, more come in batches of `BATCH`.
ONE_BATCH, BATCH = 256, 32

#: The temperature at which soft training ends, from 1, along half a cosine.
COLDEST = 0.1


class Estimator(BaseEstimator):  # type: ignore[misc]
    """What both estimators share; they differ in the targets, the loss and the predictions."""

    _loss: Callable[[Array, Array], tuple[float, Array]]
    _checks_of_y: ClassVar[dict[str, Any]]
    _n_out: int

    def _encode(self, y: Array, anew: bool, classes: Array | None) -> Array:
        """Return y as numbers; learn the classes or the number of outputs if `anew`."""
        raise NotImplementedError

    def _strata(self, y: Array) -> Array | None:
        """Return what the samples set aside must hold in the proportions of all, or None."""
        raise NotImplementedError

    def _targets(self, y: Array, weights: Array) -> Array:
        """Return what the loss takes: y and the weights in one array."""
        raise NotImplementedError

    def __init__(
        self,
        hidden_dim: int = 32,
        depth: int = 3,
        n_trees: int = 16,
        activation: str = "gelu",
        *,
        form: str = "tree",
        n_nodes: int = 64,
        n_keys: int = 16,
        k: int | None = 8,
        width: int = 8,
        hardening: float = 1.0,
        alpha: float = 0.01,
        batch_size: int | str = "auto",
        learning_rate_init: float = 4e-3,
        max_iter: int = 100,
        tol: float = 1e-4,
        n_iter_no_change: int = 10,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.hidden_dim = hidden_dim
        self.depth = depth
        self.n_trees = n_trees
        self.activation = activation
        self.form = form
        self.n_nodes = n_nodes
        self.n_keys = n_keys
        self.k = k
        self.width = width
        self.hardening = hardening
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train for at most `max_iter` epochs.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
            Samples; float32 is computed in float32, everything else in float64.
        y : array-like, shape (n_samples,), or (n_samples, n_outputs) for a regressor
            Class labels or targets.
        sample_weight : array-like, shape (n_samples,), optional
            How much each sample counts; one of weight 0 is left out.

        Returns
        -------
        self
            The fitted estimator.

        Raises
        ------
        TypeError, ValueError
            If a parameter, X, y or the weights do not fit; if the loss stops being finite.
        """
        anew = not (self.warm_start and hasattr(self, "model_"))
        x, numbers, weights = self._begin(X, y, sample_weight, anew)
        seed, held = self._seed(), None
        if self.early_stopping:
            kept, out = train_test_split(
                np.arange(len(x)),
                test_size=self.validation_fraction,
                stratify=self._strata(numbers),
                random_state=seed,
            )
            held = x[out], self._targets(numbers[out], weights[out])
            x, numbers, weights = x[kept], numbers[kept], weights[kept]
        soft = next(soft_layers(self.model_), None) is not None
        patience = self.max_iter if soft else self.n_iter_no_change
        stop = _Stop(self.model_, self.tol, patience, self.early_stopping)
        temperature = nn.cosine(self.max_iter, COLDEST)

        def end_epoch(epoch: int, history: nn.History) -> bool:
            self._set_temperature(temperature(epoch))
            return stop(epoch, history)

        n_steps = self.max_iter * -(-len(x) // self._batch_size(len(x)))
        self._train(
            x,
            self._targets(numbers, weights),
            seed,
            epochs=self.max_iter,
            schedule=nn.cosine(n_steps),
            validation=held,
            callback=end_epoch,
        )
        stop.restore()
        return self

    def _begin(
        self, X: Any, y: Any, sample_weight: Any, anew: bool, classes: Any = None
    ) -> tuple[Array, Array, Array]:
        """Check all arguments and, if `anew`, make the model; return samples, y and weights."""
        if anew:
            self.__dict__.pop("model_", None)  # what is refused below leaves nothing that predicts
        self._check_parameters()
        dtype = (np.float64, np.float32) if anew else self._dtype
        x, y = validate_data(self, X, y, dtype=dtype, reset=anew, **self._checks_of_y)
        weights = _weights(sample_weight, x)
        y = self._encode(y, anew, classes)
        if anew:
            self._make(x.shape[1], x.dtype)
        elif self._structure != self._made:
            raise ValueError(
                f"the network must stay {self._made} to train on, got {self._structure}"
            )
        counted = weights > 0
        return x[counted], y[counted], weights[counted]

    def _make(self, n_in: int, dtype: np.dtype[Any]) -> None:
        """Draw the parameters of a new network."""
        options: dict[str, Any] = {"rng": np.random.default_rng(self._seed()), "dtype": dtype}
        own = self._structure | ({"bias": True} if find_form(self.form).biased else {})
        forest = nn.make_layer(n_in=n_in, n_out=own.pop("hidden_dim"), **own, **options)
        head = nn.Linear(self.hidden_dim, self._n_out, **options)
        self.model_ = nn.Sequential(forest, nn.ReLU(), head)
        self._made = self._structure
        self._optimizer = nn.AdamW(self.model_.parameters, self.learning_rate_init)
        self.n_iter_ = 0
        self.loss_curve_: list[float] = []

    def _train(self, x: Array, targets: Array, seed: int, **options: Any) -> None:
        """Run epochs of the trainer and note what they gave."""
        self._optimizer.lr, self._optimizer.weight_decay = self.learning_rate_init, self.alpha
        self._set_temperature(1.0)
        history = nn.fit(
            self.model_,
            x,
            targets,
            loss=type(self)._loss,
            optimizer=self._optimizer,
            batch_size=self._batch_size(len(x)),
            seed=seed,
            progress=False,
            **options,
        )
        self.loss_curve_ += history.loss
        self.n_iter_ += len(history.loss)
        if history.interrupted:
            raise KeyboardInterrupt

    def _set_temperature(self, temperature: float) -> None:
        """Set the temperature of the layers that train softly."""
        for _, layer in soft_layers(self.model_):
            layer.temperature = temperature

    def _output(self, X: ArrayLike) -> Array:
        """Return the output of the network, (n_samples, n_out)."""
        check_is_fitted(self, "model_")
        return nn.predict(self.model_, validate_data(self, X, dtype=self._dtype, reset=False))

    def _check_parameters(self) -> None:
        """Refuse parameters that the layers do not check."""
        for name in ("learning_rate_init", "alpha", "tol"):
            check_scalar(getattr(self, name), name, Real, min_val=0)
        for name in ("max_iter", "n_iter_no_change"):
            check_scalar(getattr(self, name), name, Integral, min_val=1)
        if self.batch_size != "auto":
            check_scalar(self.batch_size, "batch_size", Integral, min_val=1)

    def _batch_size(self, n_samples: int) -> int:
        """Return the number of samples in a step."""
        if self.batch_size != "auto":
            return int(self.batch_size)
        return n_samples if n_samples <= ONE_BATCH else BATCH

    def _seed(self) -> int:
        """Draw a seed from the random state."""
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    @property
    def _structure(self) -> dict[str, Any]:
        """The parameters that make the network, those that its form does not take left out."""
        names = ("form", "hidden_dim", "n_trees", "activation", *find_form(self.form).options)
        return {name: getattr(self, name) for name in names}

    @property
    def _dtype(self) -> np.dtype[Any]:
        return next(iter(self.model_.parameters.values())).dtype

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes, with each array once: joblib would store shared ones again."""
        state = dict(super().__getstate__())
        if "model_" in state:
            parameters = self.model_.parameters
            nothing: dict[str, Any] = dict.fromkeys(parameters)
            state["model_"] = (self.model_.with_parameters(nothing), parameters)
            state["_optimizer"] = self._optimizer.state_dict()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over attributes; arrays that joblib has mapped read-only are copied."""
        if "model_" in state:
            bare, parameters = state["model_"]
            model = bare.with_parameters(
                {name: np.require(a, requirements="W") for name, a in parameters.items()}
            )
            optimizer = nn.AdamW(model.parameters)
            optimizer.load_state_dict(state["_optimizer"])
            state = {**state, "model_": model, "_optimizer": optimizer}
        super().__setstate__(state)


class _Stop:
    """Ends a run whose loss no longer falls; keeps the best parameters where that is wanted."""

    def __init__(self, model: nn.Layer, tol: float, patience: int, validated: bool) -> None:
        self.model, self.tol, self.patience, self.validated = model, tol, patience, validated
        self.lowest, self.waited = np.inf, 0
        self.best: dict[str, Array] = {}

    def __call__(self, epoch: int, history: nn.History) -> bool:
        """Look at the latest loss; tell whether the run should end."""
        loss = (history.val_loss if self.validated else history.loss)[-1]
        self.waited = 0 if loss < self.lowest - self.tol else self.waited + 1
        if loss < self.lowest:
            self.lowest = loss
            if self.validated:
                self.best = {name: array.copy() for name, array in self.model.parameters.items()}
        return self.waited >= self.patience

    def restore(self) -> None:
        """Give the model the best parameters back, if they were kept."""
        for name, array in self.best.items():
            self.model.parameters[name][...] = array


def _weights(sample_weight: ArrayLike | None, x: Array) -> Array:
    """Return one weight per sample, in the dtype of x."""
    if sample_weight is None:
        return np.ones(len(x), x.dtype)
    weights: Array = check_array(
        sample_weight,
        dtype=x.dtype,
        ensure_2d=False,
        ensure_non_negative=True,
        input_name="sample_weight",
    )
    if weights.shape != (len(x),):
        raise ValueError(f"sample_weight must have shape {(len(x),)}, got {weights.shape}")
    if not weights.any():
        raise ValueError("sample_weight must not be zero for all samples")
    return weights
