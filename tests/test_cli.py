"""The command line, as a user calls it."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from fffnb import cli, nn

QUICK = ["--epochs", "2", "--quiet"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert cli.main(["train", *QUICK, "--out", str(folder)]) == 0
    return folder


def test_train_writes_models_and_learning_curves(run_folder, capsys):
    assert cli.main(["train", *QUICK, "--out", str(run_folder)]) == 0
    printed = capsys.readouterr().out
    for name in ("fff.safetensors", "dense.safetensors", "learning-curve.png"):
        assert name in printed
        assert (run_folder / name).stat().st_size > 0
    assert (run_folder / "learning-curve.png").read_bytes()[:4] == b"\x89PNG"
    assert "neurons read per sample" in printed
    assert "40 of 248" in printed


def test_default_command_reaches_95_percent_and_reads_a_quarter(tmp_path, capsys):
    assert cli.main(["train", "--json", "--out", str(tmp_path)]) == 0
    networks = json.loads(capsys.readouterr().out)["networks"]
    assert networks["fff"]["test_accuracy"] >= 0.95
    assert networks["fff"]["neurons_read"] <= networks["fff"]["neurons"] / 4
    fff = nn.load_model(tmp_path / "fff.safetensors")
    dense = nn.load_model(tmp_path / "dense.safetensors")
    trees = [layer for layer in fff.layers if isinstance(layer, nn.FFF)]
    linear = [layer for layer in dense.layers if isinstance(layer, nn.Linear)]
    assert all(layer.depth >= 4 for layer in trees)
    assert [(a.n_in, a.n_out) for a in trees] == [(b.n_in, b.n_out) for b in linear]


def test_options_reach_the_network(tmp_path, capsys):
    options = "--hidden 20 30 --depth 3 --trees 2 --activation relu2 --optimizer sgd --lr 0.1"
    more = "--momentum 0.9 --schedule step --batch-size 64 --seed 3 --json"
    argv = ["train", *options.split(), *more.split(), *QUICK, "--out", str(tmp_path)]
    assert cli.main(argv) == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 3
    layers = nn.load_model(tmp_path / "fff.safetensors").layers
    assert [(layer.n_in, layer.n_out) for layer in layers[::2]] == [(64, 20), (20, 30), (30, 10)]
    assert {(layer.depth, layer.n_trees, layer.activation) for layer in layers[::2]} == {
        (3, 2, "relu2")
    }


def test_predict_prints_the_accuracy_that_training_saw(tmp_path, capsys):
    assert cli.main(["train", *QUICK, "--json", "--out", str(tmp_path)]) == 0
    seen = json.loads(capsys.readouterr().out)["networks"]["fff"]["test_accuracy"]
    assert cli.main(["predict", str(tmp_path / "fff.safetensors")]) == 0
    assert f"accuracy: {100 * seen:.2f} %" in capsys.readouterr().out


def test_the_flat_form_trains_predicts_and_shows_its_trees(tmp_path, capsys):
    argv = ["train", "--model", "flat-patterns", "--depth", "3", *QUICK, "--json"]
    assert cli.main([*argv, "--out", str(tmp_path)]) == 0
    seen = json.loads(capsys.readouterr().out)["networks"]["fff"]["test_accuracy"]
    model = str(tmp_path / "fff.safetensors")
    assert {layer.rows for layer in nn.load_model(model).layers[::2]} == {"patterns"}
    assert cli.main(["predict", model]) == 0
    assert f"accuracy: {100 * seen:.2f} %" in capsys.readouterr().out
    assert cli.main(["info", model, "--data", "digits"]) == 0
    printed = capsys.readouterr().out
    assert "FlatFFF  64 → 64" in printed
    assert len(printed.split("evenness", 1)[1].splitlines()[2:]) == 8  # two layers of four trees


@pytest.mark.parametrize(
    ("argv", "row", "made"),
    [
        ("soft --depth 3 --hardening 0.5", ["FFF", "3"], {"straight_through": None}),
        ("bag --nodes 20 --k positive", ["BagFFF", ""], {"n_nodes": 20, "k": None}),
        ("keys --keys 5 --k 3", ["ProductKeyFFF", ""], {"n_keys": 5, "activation": "identity"}),
        ("leaf --depth 2 --width 3", ["LeafFFF", "2"], {"width": 3, "activation": "relu"}),
    ],
)
def test_every_form_trains_and_its_model_loads_again(
    argv, row, made, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(cli.report, "MEASURE_SECONDS", 0)
    command = ["train", "--model", *argv.split(), "--epochs", "1", "--json"]
    assert cli.main([*command, "--out", str(tmp_path)]) == 0
    seen = json.loads(capsys.readouterr().out)["networks"]["fff"]["test_accuracy"]
    model = str(tmp_path / "fff.safetensors")
    assert cli.main(["predict", model]) == 0
    assert f"accuracy: {100 * seen:.2f} %" in capsys.readouterr().out
    loaded = nn.load_model(model)
    shown = cli.info.structure(loaded)[1]
    assert [shown[1], *shown[3:5]] == [*row, "4"]
    assert {name: getattr(loaded.layers[0], name) for name in made} == made
    status = cli.main(["info", model, "--data", "digits"])
    printed = capsys.readouterr()
    if row[1]:
        assert len(printed.out.split("evenness", 1)[1].splitlines()[2:]) == 8
    else:
        assert status == 2 and "model must hold a layer with trees" in printed.err


@pytest.mark.parametrize("suffix", ["npy", "csv"])
def test_predict_writes_predictions(run_folder, tmp_path, capsys, suffix):
    x = np.random.default_rng(0).uniform(-1, 1, (7, 64)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / f"classes.{suffix}"
    model = run_folder / "fff.safetensors"
    argv = ["predict", str(model), "--input", str(tmp_path / "x.npy"), "--output", str(out)]
    assert cli.main(argv) == 0
    classes = np.load(out) if suffix == "npy" else np.loadtxt(out, skiprows=1)
    np.testing.assert_array_equal(classes, nn.load_model(model)(x).argmax(axis=1))


def test_info_shows_the_machine(capsys):
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    for word in ("fffnb", "numba", "threading layer", "GPU"):
        assert word in printed


def test_info_shows_structure_and_use(run_folder, capsys):
    assert cli.main(["info", str(run_folder / "fff.safetensors"), "--data", "digits"]) == 0
    printed = capsys.readouterr().out
    assert "64 → 64" in printed
    lines = printed.split("evenness", 1)[1].splitlines()[2:]
    assert len(lines) == 8  # two layers of four trees
    assert all(0 < float(line.split()[-1]) <= 1 for line in lines)


def test_info_shows_layers_inside_others():
    both = nn.Sum(nn.FlatFFF(4, 2, depth=3), nn.Sequential(nn.Linear(4, 2), nn.ReLU()))
    rows = cli.info.structure(nn.Sequential(nn.GELU(), both))
    names = ["", "0", "1", "1.0", "1.1", "1.1.0", "1.1.1"]
    kinds = ["Sequential", "GELU", "Sum", "FlatFFF", "Sequential", "Linear", "ReLU"]
    assert [row[:2] for row in rows] == [*zip(names, kinds, strict=True)]
    assert rows[3][2:] == ("4 → 2", "3", "1", "3", "7", "26")
    assert {len(row) for row in rows} == {len(cli.info.STRUCTURE)}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["predict", "missing.safetensors"], "missing.safetensors"),
        (["info", "missing.safetensors"], "missing.safetensors"),
        (["train", "--data", "mnist"], "folder"),
        (["train", "--data", "mnist", "--data-dir", "/no/such/folder"], "/no/such/folder"),
        (["train", "--data", "nothing"], "nothing"),
        (["train", "--out", "/dev/null/run"], "/dev/null/run"),
        (["train", "--resume", "--out", "empty"], "checkpoint"),
        (["train", "--depth", "40"], "depth"),
        (["train", "--depth", "31", "--trees", "1000"], "bytes"),
        (["train", "--model", "keys", "--depth", "3"], "--model keys takes --keys, --k, not --dep"),
        (["train", "--k", "3"], "--model tree takes --depth, not --k"),
        (["info", "--data", "digits"], "MODEL"),
    ],
)
def test_errors_are_one_sentence_and_exit_2(argv, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("fffnb: error: ")
    assert words in error
    assert "Traceback" not in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("option", ["--depth", "--epochs", "--lr", "--hidden", "--batch-size"])
def test_options_out_of_range_exit_2(option, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["train", option, "0"])
    assert exit_.value.code == 2
    assert "expected" in capsys.readouterr().err


def test_ctrl_c_leaves_a_checkpoint_that_resumes_to_the_same_result(tmp_path):
    command = [sys.executable, "-m", "fffnb", "train", "--epochs", "5", "--json"]
    whole = subprocess.run(
        [*command, "--out", tmp_path / "whole"], capture_output=True, text=True, check=True
    )
    stopped = subprocess.Popen(
        [*command, "--out", tmp_path / "cut"], stderr=subprocess.PIPE, text=True
    )
    checkpoint = tmp_path / "cut" / "fff-checkpoint.safetensors"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(stopped.pid, signal.SIGINT)
    error = stopped.communicate(timeout=60)[1]
    assert stopped.returncode == 130, error
    assert "--resume" in error
    resumed = subprocess.run(
        [*command, "--out", tmp_path / "cut", "--resume"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in ("fff", "dense"):
        a, b = (
            json.loads(run.stdout)["networks"][name]["test_accuracy"] for run in (whole, resumed)
        )
        assert a == b
        one = nn.load_model(tmp_path / "whole" / f"{name}.safetensors").parameters
        other = nn.load_model(tmp_path / "cut" / f"{name}.safetensors").parameters
        assert all(np.array_equal(one[key], other[key]) for key in one)
