"""The estimators of scikit-learn: its own checks, and what they leave out."""

import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn", "1.6", reason="scikit-learn 1.6 is not installed")

import joblib  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.datasets import load_digits, load_iris  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import check_estimator  # noqa: E402

from fffnb import nn  # noqa: E402
from fffnb.bridges import estimator as shared  # noqa: E402
from fffnb.bridges.sklearn import FFFClassifier, FFFRegressor  # noqa: E402

EXAMPLES = Path(__file__).parents[2] / "examples"
X, Y = np.random.default_rng(0).standard_normal((90, 4)), np.arange(90) % 3
X[np.arange(90), Y] += 3


def quick(kind=FFFClassifier, **parameters):
    """An estimator of a few small trees that trains for a moment."""
    return kind(
        **{"hidden_dim": 8, "depth": 3, "n_trees": 2, "max_iter": 20, "random_state": 0}
        | parameters
    )


@pytest.mark.parametrize("kind", [FFFClassifier, FFFRegressor])
def test_it_passes_all_checks_of_sklearn(kind):
    pytest.importorskip("pandas", reason="some checks need pandas")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the checks pass what deserves one
        results = check_estimator(kind(), on_skip=None)
    assert {each["status"] for each in results} <= {"passed", "skipped"}
    assert not any(each["expected_to_fail"] for each in results)
    # Only what the machine cannot do, such as other array libraries, is skipped.
    assert all(
        "array_api" in each["check_name"] for each in results if each["status"] == "skipped"
    ), [each for each in results if each["status"] == "skipped"]


@pytest.mark.parametrize("kind", [FFFClassifier, FFFRegressor])
def test_weights_count_like_repeated_samples_in_one_batch(kind):
    weights = np.random.default_rng(1).integers(0, 4, len(X))
    weighted = quick(kind, batch_size=1000).fit(X, Y, sample_weight=weights)
    repeated = quick(kind, batch_size=1000).fit(X.repeat(weights, 0), Y.repeat(weights))
    alone = quick(kind, batch_size=1000).fit(X, Y)
    for name, array in repeated.model_.parameters.items():
        np.testing.assert_allclose(weighted.model_.parameters[name], array, rtol=1e-7, atol=1e-9)
        assert not np.allclose(alone.model_.parameters[name], array)


def test_a_refused_fit_leaves_nothing_that_predicts():
    labels = np.where(Y > 0, "a", "b")
    model = quick(FFFClassifier)
    with pytest.raises(ValueError, match="depth"):
        model.set_params(depth=0).fit(X, labels)
    with pytest.raises(NotFittedError):
        model.predict(X)
    model.set_params(depth=2).fit(X, labels)
    with pytest.raises(ValueError, match="depth"):
        model.set_params(depth=0).fit(X, np.where(Y > 0, "c", "d"))
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_training_on_needs_the_same_structure():
    model = quick(FFFRegressor, warm_start=True).fit(X, Y)
    with pytest.raises(ValueError, match=r"the network must stay .*'depth': 3.*, got .*'depth': 5"):
        model.set_params(depth=5).fit(X, Y)
    with pytest.raises(ValueError, match="must stay"):
        model.partial_fit(X, Y)
    assert np.isfinite(model.predict(X)).all()


@pytest.mark.parametrize("kind", [FFFClassifier, FFFRegressor])
def test_a_sample_of_no_weight_leaves_no_trace(kind):
    x, weights = X.copy(), np.ones(len(X))
    x[80:] *= -100  # rows that it alone would visit would lose weight to the decay
    weights[80:] = 0
    with_them = quick(kind, depth=6).fit(x, Y, sample_weight=weights)
    without = quick(kind, depth=6).fit(x[:80], Y[:80])
    for name, array in without.model_.parameters.items():
        np.testing.assert_array_equal(with_them.model_.parameters[name], array)


@pytest.mark.parametrize("kind", [FFFClassifier, FFFRegressor])
def test_the_gradient_is_that_of_the_loss(kind):
    rng = np.random.default_rng(2)
    output, weights = rng.standard_normal((5, 3)), rng.random(5)
    made = kind()
    made._n_out = 3
    y = rng.integers(0, 3, 5) if kind is FFFClassifier else rng.standard_normal((5, 3))
    targets = made._targets(y, weights)
    loss, gradient = kind._loss(output, targets)
    plain = (
        nn.softmax_cross_entropy(output, y)
        if kind is FFFClassifier
        else nn.mean_squared_error(output, y)
    )
    even = kind._loss(output, made._targets(y, np.full(5, 7.0)))
    np.testing.assert_allclose(even[0], plain[0])
    np.testing.assert_allclose(even[1], plain[1])
    for place in np.ndindex(output.shape):
        moved = output.copy()
        moved[place] += 1e-6
        slope = (kind._loss(moved, targets)[0] - loss) / 1e-6
        np.testing.assert_allclose(slope, gradient[place], atol=1e-5)


@pytest.mark.parametrize(
    "labels", [["a", "bb", "ccc"], [-5, 2, 70], [-1.0, 1.0, 2.0], [True, False, True]]
)
def test_labels_of_any_type(labels):
    y = np.array(labels)[Y]
    found = quick(max_iter=60, batch_size=16).fit(X, y)
    np.testing.assert_array_equal(found.classes_, np.unique(y))
    assert found.predict(X).dtype == y.dtype and found.score(X, y) > 0.9
    probabilities = found.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(found.classes_[probabilities.argmax(axis=1)], found.predict(X))
    np.testing.assert_allclose(np.log(probabilities), found.predict_log_proba(X))


@pytest.mark.parametrize(("given", "computed"), [("f4", "f4"), ("f8", "f8"), ("i4", "f8")])
def test_float32_stays_float32_and_the_rest_is_float64(given, computed):
    found = quick().fit(X.astype(given), Y)
    assert {array.dtype for array in found.model_.parameters.values()} == {np.dtype(computed)}
    assert found.predict_proba(X).dtype == computed


@pytest.mark.parametrize("kind", [FFFClassifier, FFFRegressor])
def test_partial_fit_goes_on_where_it_was_also_after_pickle_and_joblib(kind, tmp_path):
    first = {"classes": [0, 1, 2]} if kind is FFFClassifier else {}
    whole = quick(kind).partial_fit(X, Y, **first)
    halves = [clone(whole).partial_fit(X, Y, **first)]
    halves.append(pickle.loads(pickle.dumps(halves[0])))
    joblib.dump(halves[0], tmp_path / "model")
    halves.append(joblib.load(tmp_path / "model", mmap_mode="r"))
    whole.partial_fit(X, Y).partial_fit(X, Y)
    for half in halves:
        half.partial_fit(X, Y).partial_fit(X, Y)
        assert half.n_iter_ == 3 and half.loss_curve_ == whole.loss_curve_
        np.testing.assert_array_equal(half.predict(X), whole.predict(X))


@pytest.mark.parametrize("form", [form for form in nn.FORMS if form != "tree"])
def test_other_forms_learn_and_go_on_from_a_pickle(form):
    found = quick(form=form, max_iter=60, batch_size=16, n_nodes=10, n_keys=4, k=3, width=2)
    assert found.fit(X, Y).score(X, Y) > 0.9
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.predict(X), found.predict(X))
    both = [each.partial_fit(X, Y).predict_proba(X) for each in (again, found)]
    np.testing.assert_array_equal(*both)
    assert type(again.model_.layers[0]) is type(found.model_.layers[0])


def test_soft_training_cools_in_fit_and_takes_all_epochs():
    found = quick(form="soft", max_iter=30, tol=1e9, n_iter_no_change=1, warm_start=True)
    for n_iter in (30, 60):
        assert found.fit(X, Y).n_iter_ == n_iter
        assert found.model_.layers[0].temperature == pytest.approx(0.1)
    assert found.model_.layers[0].hardening == 1.0
    assert found.partial_fit(X, Y).model_.layers[0].temperature == 1.0


def test_parameters_of_other_forms_may_change_while_one_is_trained():
    found = quick(form="bag", k=None, warm_start=True).fit(X, Y)
    assert found.set_params(depth=5).fit(X, Y).n_iter_ == 40
    with pytest.raises(ValueError, match=r"must stay .*'n_nodes': 64.*, got .*'n_nodes': 9"):
        found.set_params(n_nodes=9).fit(X, Y)


def test_a_pickle_holds_each_array_once():
    found = quick(hidden_dim=64, depth=6).fit(X, Y)
    held = sum(array.nbytes for array in found.model_.parameters.values())
    assert len(pickle.dumps(found)) < 3.2 * held + 10_000  # parameters and two moments


def test_warm_start_goes_on_and_without_it_fit_starts_anew():
    anew = quick().fit(X, Y)
    once = anew.predict_proba(X)
    np.testing.assert_array_equal(anew.fit(X, Y).predict_proba(X), once)
    warm = quick(warm_start=True).fit(X, Y).fit(X, Y)
    assert warm.n_iter_ == 40 and warm.loss_curve_[-1] < warm.loss_curve_[19]
    with pytest.raises(ValueError, match=r"y must hold the classes \[0 1 2\], got also \[7\]"):
        warm.fit(X, np.where(Y == 1, 7, Y))


def test_training_ends_when_the_loss_no_longer_falls():
    assert quick(tol=1e9, n_iter_no_change=3).fit(X, Y).n_iter_ == 4
    assert quick(tol=0).fit(X, Y).n_iter_ == 20


def test_early_stopping_keeps_the_parameters_of_the_lowest_loss_aside(monkeypatch):
    seen, stop = [], shared._Stop.__call__

    def look(self, epoch, history):
        parameters = {name: array.copy() for name, array in self.model.parameters.items()}
        seen.append((history.val_loss[-1], parameters))
        return stop(self, epoch, history)

    monkeypatch.setattr(shared._Stop, "__call__", look)
    noise = np.random.default_rng(3).integers(0, 3, 90)
    found = quick(max_iter=200, early_stopping=True, learning_rate_init=0.05).fit(X, noise)
    assert found.n_iter_ == len(seen) < 200
    losses = [loss for loss, _ in seen]
    best = int(np.argmin(losses))
    assert best < len(seen) - 1
    for name, array in found.model_.parameters.items():
        np.testing.assert_array_equal(array, seen[best][1][name])


def test_regression_of_several_outputs():
    y = np.stack([X[:, 0], X[:, 1] - X[:, 2]], axis=1)
    found = quick(FFFRegressor, max_iter=300, learning_rate_init=0.02).fit(X, y)
    assert found.predict(X).shape == (90, 2) and found.score(X, y) > 0.8
    assert quick(FFFRegressor).fit(X, y[:, :1]).predict(X).shape == (90,)
    with pytest.raises(ValueError, match="y must have 2 outputs, got 1"):
        found.partial_fit(X, y[:, 0])


def test_cross_validation_and_search_with_processes():
    pipeline = make_pipeline(StandardScaler(), quick(max_iter=40, batch_size=16))
    assert cross_val_score(pipeline, X, Y, cv=3).mean() > 0.85
    grid = {"fffclassifier__depth": [1, 3], "fffclassifier__n_trees": [1, 2]}
    alone = GridSearchCV(pipeline, grid, cv=2).fit(X, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # joblib's own, about resources of the processes
        spread = GridSearchCV(pipeline, grid, cv=2, n_jobs=2).fit(X, Y)
    np.testing.assert_array_equal(
        spread.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"]
    )
    np.testing.assert_array_equal(spread.predict(X), alone.predict(X))


def test_threads_train_and_predict_the_same_bits():
    x, y = load_digits(return_X_y=True)
    jobs = [quick(max_iter=2, hidden_dim=64, random_state=seed) for seed in range(4)]

    def work(job):
        return clone(job).fit(x, y).predict_proba(x)

    threaded = joblib.Parallel(n_jobs=4, backend="threading")(map(joblib.delayed(work), jobs))
    for job, found in zip(jobs, threaded, strict=True):
        np.testing.assert_array_equal(work(job), found)


def test_feature_names_are_kept_and_checked():
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = load_iris(as_frame=True)
    found = quick(max_iter=2).fit(frame.data, frame.target)
    assert list(found.feature_names_in_) == list(frame.data.columns)
    with pytest.raises(ValueError, match="feature names"):
        found.predict(frame.data.rename(columns={"petal width (cm)": "width"}))


def test_what_cannot_be_learned_from_is_refused():
    with pytest.raises(NotFittedError, match="FFFClassifier instance is not fitted"):
        quick().predict(X)
    with pytest.raises(NotFittedError, match="FFFRegressor instance is not fitted"):
        quick(FFFRegressor).predict(X)
    with pytest.raises(ValueError, match="y must hold at least two classes, got one class: 'a'"):
        quick().fit(X, np.full(90, "a"))
    with pytest.raises(ValueError, match="NaN"):
        quick().fit(np.where(X > 2, np.nan, X), Y)
    found = quick(max_iter=1).fit(X, Y)
    with pytest.raises(ValueError, match="infinity"):
        found.predict(np.where(X > 2, np.inf, X))
    with pytest.raises(ValueError, match="X has 3 features, but FFFClassifier is expecting 4"):
        found.predict(X[:, :3])
    with pytest.raises(ValueError, match="Negative values in data passed to sample_weight"):
        found.fit(X, Y, sample_weight=-np.ones(90))
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(90,\), got \(89,\)"):
        found.fit(X, Y, sample_weight=np.ones(89))
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        quick().partial_fit(X, Y)
    with pytest.raises(ValueError, match=r"classes must be those of the first call, \[0 1 2\]"):
        quick().partial_fit(X, Y, classes=[0, 1, 2]).partial_fit(X, Y, classes=[0, 1])


@pytest.mark.parametrize(
    ("parameter", "value", "words"),
    [
        ("max_iter", 0, "max_iter == 0, must be >= 1"),
        ("learning_rate_init", -1.0, "learning_rate_init == -1.0, must be >= 0"),
        ("alpha", "high", "alpha must be an instance of"),
        ("batch_size", 0, "batch_size == 0, must be >= 1"),
        ("depth", 0, "depth must be at least 1, got 0"),
        ("activation", "swish", "activation must be one of .*, got 'swish'"),
        ("form", "bush", "form must be one of tree, straight, .*, got 'bush'"),
    ],
)
def test_parameters_out_of_range_are_named(parameter, value, words):
    with pytest.raises((TypeError, ValueError), match=words):
        quick(**{parameter: value}).fit(X, Y)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"form": "bag", "k": 65}, "k must be at most the number of nodes of a bag, 64, got 65"),
        ({"form": "keys", "k": None}, "k must be an int, got NoneType"),
        ({"form": "leaf", "width": 0}, "width must be at least 1, got 0"),
        ({"form": "soft", "hardening": -1}, "hardening must be at least 0.0, got -1"),
    ],
)
def test_parameters_of_forms_are_checked(parameters, words):
    with pytest.raises((TypeError, ValueError), match=words):
        quick(**parameters).fit(X, Y)
    with pytest.raises(ValueError, match="n_in must be even, as keys score the halves of x, got 3"):
        quick(form="keys").fit(X[:, :3], Y)


def test_ctrl_c_ends_training_and_not_only_this_fit(monkeypatch):
    monkeypatch.setattr(nn, "fit", lambda *_, **__: nn.History(interrupted=True))
    with pytest.raises(KeyboardInterrupt):
        quick().fit(X, Y)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "fffnb.bridges.sklearn")
    monkeypatch.delitem(sys.modules, "fffnb.bridges.estimator")
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(ImportError, match=r"scikit-learn is not installed.*fffnb\[sklearn\]"):
        __import__("fffnb.bridges.sklearn")


def test_the_example_finds_a_good_forest():
    run = subprocess.run(
        [sys.executable, EXAMPLES / "sklearn_pipeline.py"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert float(run.stdout.rsplit(maxsplit=1)[-1]) > 0.93, run.stdout
