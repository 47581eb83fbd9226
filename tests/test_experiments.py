"""Experiments resume, refuse other settings, report what diverged, and count work rightly."""

import importlib
import json
import re
import signal
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

import fffnb
from fffnb import nn
from fffnb.data import Dataset

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))

cifar = importlib.import_module("benchmarks.experiments.cifar")
command = importlib.import_module("benchmarks.experiments.__main__")
experiment = importlib.import_module("benchmarks.experiments.experiment")
models = importlib.import_module("benchmarks.experiments.models")
pictures = importlib.import_module("benchmarks.experiments.pictures")
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
        assert trained == [("dense", 0), ("Tree, 2 x 2", 0), ("dense", 1)]
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

    @pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
    def test_the_best_rate_on_held_out_samples_is_tested_once(self, blobs, tmp_path, monkeypatch):
        tested = []
        exact = nn.accuracy
        monkeypatch.setattr(nn, "accuracy", lambda *each: tested.append(0) or exact(*each))
        rates = (1e-6, 0.03, 1e30)
        (dense,), _ = run(tiny(lr=rates, optimizer="sgd", epochs=6), tmp_path, seeds=1)
        assert dense["lr"] == 0.03 and dense["diverged"] is None and len(tested) == 2
        alone = run(tiny(lr=0.03, optimizer="sgd", epochs=6), tmp_path / "alone", seeds=1)[0][0]
        assert alone["history"] == dense["history"] and alone["test"] == dense["test"]

    def test_centred_samples_have_no_mean(self, blobs):
        seen = {}

        def attempt(recipe, data):
            seen["data"] = data
            seen["kept"] = train.split(data, recipe, 0)[0]
            return train.Trained({"diverged": None}, 0.5, dict)

        plain = experiment.data.load("mnist")
        setting = tiny(centred=True).settings[0]
        train.by_validation(setting, 0, plain, attempt)
        np.testing.assert_allclose(seen["kept"].mean(axis=0), 0, atol=1e-6)
        moved = plain.x_train - seen["data"].x_train
        np.testing.assert_allclose(moved, np.broadcast_to(moved[0], moved.shape), atol=1e-6)
        np.testing.assert_allclose(plain.x_test - seen["data"].x_test, moved[:60], atol=1e-6)

    def test_best_epoch_is_restored(self):
        model = nn.Linear(2, 2)
        best = train.BestEpoch(model.parameters)
        kept = model.weight.copy()
        best(1, nn.History(accuracy=[0.5]))
        model.weight[...] = 7
        best(2, nn.History(accuracy=[0.5, 0.4]))
        assert best.restore() == {"epoch": 1, "validation": 0.5}
        assert np.array_equal(model.weight, kept)

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

    def test_an_interrupted_run_is_none(self, blobs):
        class Bar:
            def update(self):
                signal.raise_signal(signal.SIGINT)

        setting = tiny().settings[0]
        with pytest.raises(KeyboardInterrupt):
            train.train(setting, 0, experiment.data.load("mnist"), "cpu", Bar())

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
    "balanced": ({"form": "balanced-leaf", "depth": 2, "width": 5, "balance": 1.0}, 7, 23, 5, 20),
    "straight": ({"form": "straight", "depth": 3, "temperature": 1.0}, 3, 7, 3, 7),
    "shared": ({"form": "shared-tree", "depth": 3, "n_trees": 2}, 6, 14, 6, 14),
    "patterns": ({"form": "shared-patterns", "depth": 3, "n_trees": 2}, 6, 6, 6, 48),
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


@pytest.mark.parametrize(
    ("watch", "words", "seen"),
    [
        ("usage", {**TREE}, r"leaves used \d+ %, at least \d+ %, busiest \d+ %"),
        ("usage", {"form": "leaf", "depth": 2, "width": 2, "side": 2}, "leaves used"),
        (
            "gap",
            {"form": "soft", "depth": 2, "hardening": 0.1},
            r"soft paths \d+\.\d\d %, entropy 0",
        ),
        ("levels", {**TREE}, "see the picture"),
    ],
)
def test_watches_are_shown(watch, words, seen, blobs, tmp_path):
    recipe = settings.Recipe(epochs=4, batch_size=16, lr=0.03, cooling=0.5 if watch == "gap" else 1)
    setting = settings.Setting(watch, words, recipe, watch=watch)
    made = experiment.Experiment("tiny", "", (setting,), 1, 1)
    row = report.row(setting, run(made, tmp_path, seeds=1)[0])
    assert re.search(seen, report.table([row]))


def test_work_of_a_network():
    one, two, both = (
        work.work(models.network({**TREE, **hidden}, *widths, 0))
        for hidden, widths in (({}, (6, 8)), ({}, (8, 3)), ({"hidden": 8}, (6, 3)))
    )
    assert both == one.plus(two) and both.multiply_adds == 4 * (6 + 8) + 4 * (8 + 3)
    with pytest.raises(TypeError, match="got GELU"):
        work.work(nn.Sequential(nn.GELU()))


@pytest.mark.parametrize("name", ["balanced", "patterns", "positive", "shared"])
def test_gradients_of_layers(name):
    words = {**WORK[name][0], "orthogonality": 0.1} if name == "positive" else WORK[name][0]
    model = models.network({**words, "dtype": "float64"}, N_IN, N_OUT, 0)
    rng = np.random.default_rng(0)
    x, grad_y = rng.standard_normal((9, N_IN)), rng.standard_normal((9, N_OUT))
    _, gradients = model.backward(grad_y, model.forward(x)[1])

    def loss():
        y, trace = model.forward(x)
        return float((y * grad_y).sum()) + cost(model, trace)

    for key, gradient in gradients.items():
        places = rng.integers(0, gradient.size, 5)
        flat = model.parameters[key].reshape(-1)
        for place in places:
            around = []
            for step in (1e-6, -1e-6):
                flat[place] += step
                around.append(loss())
                flat[place] -= step
            slope = (around[0] - around[1]) / 2e-6
            assert gradient.reshape(-1)[place] == pytest.approx(slope, rel=1e-5, abs=1e-7), key


def cost(model, trace):
    """Return what a layer adds to the loss."""
    if isinstance(model, models.Orthogonal):
        vectors = fffnb.split_nodes(model.layer.nodes, N_IN)
        return 0.1 * sum(fffnb.orthogonality_loss(each)[0] for each in vectors)
    if isinstance(model, models.BalancedLeaf):
        x, soft = trace
        n_leaves = 2**model.depth
        leaves = fffnb.leaf_forward(
            x, model.routers, model.leaves, bias=model.bias, return_trace=True
        )[1].leaves
        hard = np.bincount(leaves[:, 0], minlength=n_leaves)
        return n_leaves / len(x) ** 2 * float(hard @ soft.weights[:, 0, -n_leaves:].sum(axis=0))
    return 0.0


def test_straight_through_changes_the_step():
    x, grad_y = np.ones((4, N_IN), np.float32), np.ones((4, N_OUT), np.float32)
    steps = {}
    for form, options in (("tree", {}), ("straight", {"temperature": 1.0})):
        model = models.network({"form": form, "depth": 3, **options}, N_IN, N_OUT, 0)
        optimizer = nn.SGD(model.parameters, lr=0.1)
        model.backward_update(grad_y, model.forward(x)[1], optimizer)
        steps[form] = model.nodes
    changed = np.flatnonzero((steps["tree"] != steps["straight"]).any(axis=(0, 2)))
    assert 1 <= len(changed) <= 2  # the nodes on the path that decide


def test_shifts():
    images = np.arange(2 * 9, dtype=np.float32).reshape(2, 9)
    x = images.copy()
    shifts = train.Shifts(x, (1, 3, 3), 1, seed=0)
    seen = {0: set(), 1: set()}
    for epoch in range(60):
        shifts(epoch)
        for i, image in enumerate(x):
            seen[i].add(image.tobytes())
    assert [len(each) for each in seen.values()] == [9, 9]
    assert images[0].tobytes() in seen[0]
    up = np.array([3, 4, 5, 6, 7, 8, -1, -1, -1], np.float32)
    assert up.tobytes() in seen[0]


@pytest.mark.parametrize("name", table.EXPERIMENTS)
def test_every_experiment_builds(name):
    made = table.EXPERIMENTS[name]()
    labels = [runs.path_of(Path(), each, 0) for each in made.settings]
    assert made.name == name and len(set(labels)) == len(labels) > 0
    for setting in made.settings:
        json.dumps(setting.to_json())
        words = {key: each for key, each in setting.model.items() if key != "net"}
        assert work.work(models.network(words, 400, 120, 0)).multiply_adds > 0
    quick = made.quick()
    assert {each.recipe.epochs for each in quick.settings} == {1} and quick.name != name


@pytest.mark.parametrize("net", ["lenet", "vit"])
def test_networks_of_pytorch_learn(net, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    y = np.arange(40) % 10
    x = np.random.default_rng(0).standard_normal((10, 3072)).astype(np.float32)[y]
    data = Dataset("cifar10", x, y, x[:20], y[:20], 10)
    monkeypatch.setattr(experiment.data, "load", lambda *each: data)
    recipe = settings.Recipe(epochs=4, batch_size=5, lr=1e-2, shift=1)
    form = {"lenet": "shared-tree", "vit": "flat"}[net]
    words = {"net": net, "form": form, "depth": 3, "n_trees": 2, "bias": True}
    setting = settings.Setting("trees", words, recipe, data="cifar10")
    made = experiment.Experiment("tiny", "", (setting,), 1, 1, train=cifar.train)
    ((record,),) = run(made, tmp_path, seeds=1)
    losses = record["history"]["loss"]
    assert len(losses) == 4 and min(losses[1:]) < losses[0]
    assert record["multiply_adds"] == 6 * {"lenet": 400 + 2 * (120 + 84) + 10, "vit": 1024}[net]


def test_command_writes_table_file_and_picture(blobs, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(command.EXPERIMENTS, "tiny", tiny)
    arguments = ["experiments", "tiny", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--seeds", "1", "--only", "dense"])
    command.main()
    assert "| dense | 18 | 3 of 3 | 0 of 0 | 1 |" in capsys.readouterr().out
    rows = json.loads((tmp_path / "tiny.json").read_text())["rows"]
    assert [row["label"] for row in rows] == ["dense"] and rows[0]["test"]["mean"] > 60
    assert (tmp_path / "tiny.png").read_bytes().startswith(b"\x89PNG")
    for wrong in (["--seeds", "0"], ["--only", "no such label"]):
        monkeypatch.setattr(sys, "argv", [*arguments, *wrong])
        with pytest.raises(SystemExit):
            command.main()
        assert wrong[0] in capsys.readouterr().err


@pytest.mark.parametrize("kind", pictures.DRAW)
def test_pictures(kind):
    spread = {"mean": 90.0, "sd": None, "each": [90.0]}
    levels = {"0": {"flipped": [[0.0, 0.0], [0.2, 0.1]]}}
    rows = [
        {
            "label": "tree, 1",
            "test": spread,
            "published": 91.0,
            "multiply_adds": 10,
            "watched": [levels],
        }
    ]
    assert pictures.png(kind, "title", rows, "caption").startswith(b"\x89PNG")
