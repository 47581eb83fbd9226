"""Arrays of Dask: lazy, chunk by chunk, with the same bits as NumPy's."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

da = pytest.importorskip("dask.array", reason="dask is not installed")
dask = pytest.importorskip("dask")

import fffnb  # noqa: E402
from fffnb import nn  # noqa: E402
from fffnb.bridges.dask import fff_forward, predict, sum_gradients  # noqa: E402
from fffnb.reference import tree as reference  # noqa: E402

EXAMPLES = Path(__file__).parents[2] / "examples"
RNG = np.random.default_rng(0)


def samples(*shape, dtype=np.float64):
    return RNG.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("lead", [(13,), (4, 5), (2, 3, 4)])
def test_forward_is_lazy_chunked_and_the_reference(lead, dtype):
    x, nodes = samples(*lead, 6, dtype=dtype), fffnb.init_nodes(6, 3, 4, n_trees=2, dtype=dtype)
    bias = samples(2, 15, dtype=dtype)
    lazy = da.from_array(x, chunks=(2,) * len(lead) + (4,))
    y = fff_forward(lazy, nodes, bias=bias, activation="gelu", n_out=3)
    assert isinstance(y, da.Array) and y.dtype == dtype and y.shape == (*lead, 3)
    assert y.chunks == (*lazy.chunks[:-1], (3,))
    assert type(y._meta) is np.ndarray and y._meta.dtype == dtype
    found = y.compute(scheduler="synchronous")
    direct = fffnb.fff_forward(x, nodes, bias=bias, activation="gelu")
    np.testing.assert_array_equal(found, direct)
    truth = reference.forward(x.reshape(-1, 6), nodes, bias, "gelu").y.reshape(found.shape)
    np.testing.assert_allclose(found, truth, atol=1e-5 if dtype == np.float32 else 1e-12)


def test_nothing_is_computed_before_it_is_asked_for():
    computed = []

    def load(block_id):
        computed.append(block_id)
        return np.ones((2, 3))

    x = da.map_blocks(load, chunks=((2,) * 5, (3,)), dtype=float, meta=np.empty((0, 0)))
    y = fff_forward(x, fffnb.init_nodes(3, 2, 4, dtype=float))
    z = predict(nn.FFF(3, 2, 4, dtype=float), x)
    assert not computed
    y[4:6].compute()
    assert computed == [(2, 0)]
    assert z.shape == (10, 2) and computed == [(2, 0)]


def test_the_nodes_are_one_task_of_the_graph():
    nodes = fffnb.init_nodes(3, 2, 4, dtype=float)
    graph = dict(fff_forward(da.ones((10, 3), chunks=(1, 3)), nodes).__dask_graph__())
    assert sum(str(key).startswith("ndarray-") for key in graph) == 1, list(graph)


def test_threads_give_the_same_bits():
    x, nodes = samples(4000, 64), fffnb.init_nodes(64, 64, 8, n_trees=2, dtype=float)
    expected = fffnb.fff_forward(x, nodes, activation="relu")
    y = fff_forward(da.from_array(x, chunks=(250, 64)), nodes, activation="relu")
    for _ in range(5):
        found = y.compute(scheduler="threads", num_workers=4)
        np.testing.assert_array_equal(found, expected)


def test_rows_whose_number_is_unknown():
    x = samples(20, 3)
    lazy = da.from_array(x, chunks=(6, 3))
    model = nn.FFF(3, 2, 4, dtype=float)
    found = predict(model, lazy[lazy[:, 0] > 0]).compute()
    np.testing.assert_array_equal(found, model(x[x[:, 0] > 0]))


def test_predictions_of_layers_and_estimators():
    sklearn = pytest.importorskip(
        "fffnb.bridges.sklearn", reason="scikit-learn is not installed", exc_type=ImportError
    )
    x = samples(60, 4)
    lazy = da.from_array(x, chunks=(16, 2))
    model = nn.Sequential(nn.FFF(4, 8, 3, dtype=float), nn.ReLU(), nn.Linear(8, 2, dtype=float))
    np.testing.assert_allclose(predict(model, lazy).compute(), nn.predict(model, x), rtol=1e-12)
    y = np.where(x[:, 0] > 0, "plus", "minus")
    classifier = sklearn.FFFClassifier(max_iter=3).fit(x, y)
    classes = predict(classifier, lazy)
    assert classes.shape == (60,) and classes.dtype == y.dtype and classes.chunks == lazy.chunks[:1]
    np.testing.assert_array_equal(classes.compute(), classifier.predict(x))
    regressor = sklearn.FFFRegressor(max_iter=3).fit(x, x[:, :2])
    np.testing.assert_allclose(predict(regressor, lazy).compute(), regressor.predict(x))


def test_wrong_input_is_refused_at_once():
    nodes = fffnb.init_nodes(3, 2, 4)
    with pytest.raises(TypeError, match=r"x must be a dask\.array\.Array, got ndarray"):
        fff_forward(np.ones((5, 3), np.float32), nodes)
    with pytest.raises(ValueError, match=r"x must be \(\.\.\., n_in\) .*, got shape \(3,\)"):
        fff_forward(da.ones(3, dtype=np.float32), nodes)
    with pytest.raises(TypeError, match="x"):
        fff_forward(da.ones((5, 3), dtype=int), nodes)
    with pytest.raises(ValueError, match="n_out"):
        fff_forward(da.ones((5, 4), dtype=np.float32), nodes, n_out=2)
    with pytest.raises(ValueError, match="columns"):
        predict(nn.Linear(3, 2), da.ones((5, 4), dtype=np.float32))


@pytest.mark.parametrize("sparse", [True, False])
def test_gradients_of_parts_add_up_to_those_of_all(sparse):
    model = nn.Sequential(
        nn.FFF(5, 8, 4, n_trees=2, bias=True, dtype=float), nn.ReLU(), nn.Linear(8, 3, dtype=float)
    )
    x, y = samples(30, 5), RNG.integers(0, 3, 30)

    def gradients(part):
        output, trace = model.forward(x[part])
        gradient = nn.softmax_cross_entropy(output, y[part])[1] * len(output) / len(x)
        return model.backward(gradient, trace, sparse=sparse)[1]

    total = sum_gradients(gradients(slice(start, start + 10)) for start in (0, 10, 20))
    whole = gradients(slice(None))
    assert set(total) == set(whole)
    for name, expected in whole.items():
        found = total[name]
        if isinstance(expected, fffnb.RowGradient):
            np.testing.assert_array_equal(found.rows, expected.rows)
            assert found.count == expected.count and found.values.dtype == expected.values.dtype
            found, expected = found.values, expected.values
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    nn.AdamW(model.parameters).step(total)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "fffnb.bridges.dask")
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(ImportError, match=r"dask is not installed.*fffnb\[dask\]"):
        importlib.import_module("fffnb.bridges.dask")


def run_example(name):
    command = [sys.executable, EXAMPLES / name]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def test_parts_that_do_not_fit_together_are_refused():
    dense, rows = np.ones((1, 3, 4)), fffnb.RowGradient(np.array([0]), np.ones((1, 4)), None, 1)
    for parts in ([], [{"a": dense}, {"b": dense}], [{"a": dense}, {"a": rows}]):
        with pytest.raises(ValueError, match="parts must be gradients of the same names"):
            sum_gradients(parts)


def test_the_example_of_prediction_runs():
    assert "200,000 classes" in run_example("dask_prediction.py")


def test_two_workers_train_as_one_process():
    pytest.importorskip("distributed", reason="distributed is not installed")
    printed = run_example("dask_training.py")
    accuracy, apart = (float(words.split()[-1]) for words in printed.split(", "))
    assert accuracy > 0.5 and apart <= 1e-12, printed
