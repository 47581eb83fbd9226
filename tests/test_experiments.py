"""Experiments resume, refuse other settings, report what diverged, and count work rightly."""

import importlib
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from fffnb import nn
from fffnb.data import Dataset

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))

command = importlib.import_module("benchmarks.experiments.__main__")
experiment = importlib.import_module("benchmarks.experiments.experiment")
models = importlib.import_module("benchmarks.experiments.models")
report = importlib.import_module("benchmarks.experiments.report")
runs = importlib.import_module("benchmarks.experiments.runs")
settings = importlib.import_module("benchmarks.experiments.settings")
table = importlib.import_module("benchmarks.experiments.table")
train = importlib.import_module("benchmarks.experiments.train")
work = importlib.import_module("benchmarks.experiments.work")

N_IN, N_OUT, N = 6, 3, 240
TREE = {"form": "tree", "depth": 2, "n_trees": 2, "bias": True}


@pytest.fixture
def blobs(monkeypatch):
    """Let "mnist" be three clouds of points, and count how often it is read."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, N_OUT, N)
    x = (4 * np.eye(N_OUT, N_IN)[y] + rng.standard_normal((N, N_IN))).astype(np.float32)
    data = Dataset("mnist", x[:180], y[:180], x[180:], y[180:], N_OUT)
    read = []
    monkeypatch.setattr(experiment.data, "load", lambda *each: read.append(each) or data)
    return read


def tiny(**recipe):
    """Return an experiment of two rows."""
    made = settings.Recipe(**{"epochs": 4, "batch_size": 16, "lr": 0.03, **recipe})
    rows = [
        settings.Setting("dense", {"form": "dense"}, made, published=90.0),
        settings.Setting("Tree, 2 x 2", {**TREE, "hidden": 8}, made, watch="usage"),
    ]
    return experiment.Experiment("tiny", "Blobs", tuple(rows), seeds=2, minutes=1)


def run(made, folder, seeds=2):
    return experiment.run(made, seeds, folder, None, "cpu")


class TestRuns:
    def test_stopped_experiment_goes_on(self, blobs, tmp_path, monkeypatch):
        made, trained = tiny(), []

        def stop(setting, seed, *rest):
            if len(trained) == 3:
                raise KeyboardInterrupt
            trained.append((setting.label, seed))
            return train.train(setting, seed, *rest)

        with pytest.raises(KeyboardInterrupt):
            run(replace(made, train=stop), tmp_path)
        assert trained == [("dense", 0), ("dense", 1), ("Tree, 2 x 2", 0)]
        trained[:] = []
        resumed = run(replace(made, train=stop), tmp_path)
        assert trained == [("Tree, 2 x 2", 1)]
        whole = run(made, tmp_path / "whole")
        for one, other in zip(chain(*resumed), chain(*whole), strict=True):
            assert one["test"] == other["test"] > 0.6
            assert one["history"]["loss"] == other["history"]["loss"]
        blobs.clear()
        run(made, tmp_path)
        assert blobs == []  # finished: no data are needed

    def test_refuses_other_settings(self, blobs, tmp_path):
        run(tiny(), tmp_path, seeds=1)
        with pytest.raises(ValueError, match=r"a run with .*0\.02.*0\.03.*--out"):
            run(tiny(lr=0.02), tmp_path, seeds=1)

    def test_refuses_a_damaged_file(self, blobs, tmp_path):
        run(tiny(), tmp_path, seeds=1)
        (tmp_path / "tiny" / "dense-0.json").write_text("{")
        with pytest.raises(ValueError, match=r"dense-0\.json must be a whole JSON file"):
            run(tiny(), tmp_path, seeds=1)

    def test_missing_data_say_what_to_fetch(self, tmp_path):
        for folder in (None, str(tmp_path)):
            with pytest.raises(ValueError, match=r"--data-dir must hold the four files of MNIST"):
                experiment.run(tiny(), 1, tmp_path, folder, "cpu")


class TestTrain:
    def test_the_best_epoch_on_held_out_samples_is_tested_once(self, blobs, tmp_path, monkeypatch):
        tested = []
        exact = nn.accuracy
        monkeypatch.setattr(nn, "accuracy", lambda *each: tested.append(0) or exact(*each))
        (dense,), _ = run(tiny(epochs=6), tmp_path, seeds=1)
        accuracy = dense["history"]["accuracy"]
        assert dense["validation"] == max(accuracy) == accuracy[dense["epoch"] - 1]
        assert len(tested) == 2  # one for each of the two runs

    def test_best_epoch_is_restored(self):
        model = nn.Linear(2, 2)
        best = train.BestEpoch(model)
        kept = model.weight.copy()
        best(1, nn.History(accuracy=[0.5]))
        model.weight[...] = 7
        best(2, nn.History(accuracy=[0.5, 0.4]))
        best.restore()
        assert best.epoch == 1 and np.array_equal(model.weight, kept)

    @pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
    def test_divergence_is_reported_and_not_averaged(self, blobs, tmp_path):
        made = tiny(lr=1e30, optimizer="sgd", epochs=3)
        results = run(made, tmp_path)
        record = results[0][0]
        assert "must stay finite" in record["diverged"] and "test" not in record
        good = {**record, "diverged": None, "test": 0.9, "validation": 0.8, "epoch": 1}
        row = report.row(made.settings[0], [record, {**good, "watched": {}}])
        assert row["test"]["mean"] == pytest.approx(90) and row["test"]["sd"] is None
        assert "| 1, 1 diverged |" in report.table([row])
        assert "| – |" in report.table([report.row(made.settings[0], [record])])

    def test_a_loss_worse_than_guessing_is_divergence(self, blobs, tmp_path):
        record = run(tiny(lr=30.0, epochs=1), tmp_path, seeds=1)[0][0]
        assert "that of guessing is 1.1" in record["diverged"]

    def test_other_errors_are_raised(self, blobs, tmp_path):
        with pytest.raises(ValueError, match="batch_size"):
            run(tiny(batch_size=0), tmp_path)

    def test_one_cycle(self):
        rate = train.one_cycle(100)
        assert rate(0) == pytest.approx(0.04) and rate(30) == 1
        assert rate(100) == pytest.approx(1e-3)
        assert all(rate(k) < rate(k + 1) for k in range(30))
        assert all(rate(k) > rate(k + 1) for k in range(30, 99))


# x read, x kept, y read, y kept of a layer 6 → 3
WORK = {
    "dense": ({"form": "dense"}, 3, 3, 0, 0),
    "bottleneck": ({"form": "bottleneck", "width": 4}, 4, 4, 4, 4),
    "tree": ({"form": "tree", "depth": 3, "n_trees": 2}, 6, 14, 6, 14),
    "flat": ({"form": "flat", "depth": 3, "n_trees": 2}, 6, 6, 6, 14),
    "patterns": ({"form": "equal-patterns", "depth": 3, "n_trees": 2}, 6, 6, 6, 48),
    "bag": ({"form": "bag", "n_nodes": 9, "k": 2, "orthogonality": 1e-3}, 9, 9, 2, 9),
    "positive": ({"form": "bag", "n_nodes": 9, "k": None}, 9, 9, 9, 9),
    "keys": ({"form": "keys", "n_keys": 4, "k": 2}, 4, 4, 2, 16),
    "leaf": ({"form": "leaf", "depth": 2, "width": 5}, 7, 23, 5, 20),
    "soft": ({"form": "soft", "depth": 3}, 3, 7, 3, 7),
    "side": ({"form": "tree", "depth": 3, "side": 2}, 5, 9, 5, 9),
}


@pytest.mark.parametrize("name", WORK)
def test_work(name):
    words, x_read, x_kept, y_read, y_kept = WORK[name]
    count = work.work(models.network(words, N_IN, N_OUT, 0))
    assert count == (x_read * N_IN + y_read * N_OUT, x_read, x_kept, y_read, y_kept)
