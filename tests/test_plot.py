"""Pictures, the README's table and the measured files that both are made from."""

import importlib
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def load(monkeypatch):
    """Give a function that imports a module of the benchmarks."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def run(*words):
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def refusal(load, monkeypatch, capsys):
    """Give a function that returns what a command prints when it refuses its words."""

    def call(name, *words):
        monkeypatch.setattr(sys, "argv", [name, *words])
        with pytest.raises(SystemExit) as ended:
            load(name).main()
        assert ended.value.code == 2
        return capsys.readouterr().err

    return call


def made_up():
    """Return a crossover file in which fffnb takes the lead at batch 4 and loses it at depth 9."""
    batches = [
        {"batch": batch, "seconds": {"fffnb": 4e-5, "dense": 1e-5 * batch, "Linear": None}}
        for batch in (1, 16)
    ]
    depths = [
        {"depth": depth, "seconds": {"fffnb": 1e-6 * 2**depth, "Linear": 1e-6 * 2**9}}
        for depth in (8, 11)
    ]
    sizes = {"n_in": 6, "n_out": 5}
    forward = [point | {"roof": 0.25} for point in batches]
    return {
        "machine": {"name": "cpu-2core", "threads": 2, "versions": {"numba": "0.0"}},
        "series": [
            {"what": "forward", "axis": "batch", **sizes, "depth": 3, "points": forward},
            {"what": "step", "axis": "batch", **sizes, "depth": 3, "points": batches},
            {"what": "forward", "axis": "depth", **sizes, "batch": 7, "points": depths},
        ],
    }


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "crossover.json"
    path.write_text(json.dumps(made_up()))
    return path


PICTURES = ("crossover-cpu-forward", "crossover-cpu-step", "depth-cpu", "roof-cpu")


def test_a_file_gives_the_same_pictures_twice(file, tmp_path):
    found = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        assert run("benchmarks.plot", str(file), "--out", str(folder)).returncode == 0
        found.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert found[0] == found[1]
    assert set(found[0]) == {f"{name}.{suffix}" for name in PICTURES for suffix in ("png", "svg")}
    assert all(
        content.startswith(b"\x89PNG") for name, content in found[0].items() if "png" in name
    )
    assert all(b"<svg" in content for name, content in found[0].items() if "svg" in name)


def test_a_picture_says_where_the_lead_changes_and_on_which_machine(load):
    plot = load("plot")
    figures = made_up()
    pictures = dict(plot.draw(figures["machine"], figures["series"]))

    def words(name):
        (axes,) = pictures[name].axes
        return [text.get_text() for text in axes.texts]

    forward, depth = words("crossover-cpu-forward"), words("depth-cpu")
    assert "fffnb slower than the dense layer, faster from batch 4" in forward
    assert "fffnb faster than the linear layer, slower from depth 9" in depth
    assert {"fffnb", "dense"} <= set(forward)
    assert "Linear" not in forward  # not measured
    assert pictures["roof-cpu"].get_supxlabel() == "cpu-2core (2 threads, numba 0.0)"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"machine": {"name": "cpu', "must be a whole JSON file"),
        ("[1, 2]", "must hold a JSON object, got list"),
        ('{"cases": []}', "must be a file of benchmarks.crossover"),
        (
            '{"machine": {"name": "a"}, "series": [{"axis": "batch"}]}',
            "file of benchmarks.crossover",
        ),
        ('{"machine": {"name": "a"}, "series": []}', "must hold a series"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_plot_refuses_another_file_and_writes_nothing(text, reason, file, tmp_path, refusal):
    out = tmp_path / "out"
    out.mkdir()
    other = tmp_path / "other.json"
    if text is not None:
        other.write_text(text)
    refused = refusal("plot", str(file), str(other), "--out", str(out))
    assert reason in refused and str(other) in refused
    assert refused.count("\n") == 1
    assert not list(out.iterdir())


def test_a_caption_keeps_names_beside_versions(load):
    caption = "h100 (NVIDIA H100, fffnb 0.1.0, numba-cuda 0.30.4)"
    assert load("plot").wrapped(caption, 39).splitlines() == [
        "h100 (NVIDIA H100, fffnb 0.1.0,",
        "numba-cuda 0.30.4)",
    ]


def test_plot_refuses_two_files_of_one_device(file, tmp_path, refusal):
    refused = refusal("plot", str(file), str(file), "--out", str(tmp_path))
    assert "is of the same device as a file before it" in refused


def test_plot_names_what_installs_matplotlib(file, tmp_path, load, monkeypatch, capsys):
    load("plot")
    monkeypatch.delitem(sys.modules, "benchmarks.plot")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(sys, "argv", ["plot", str(file), "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("benchmarks.plot", run_name="__main__")
    assert ended.value.code == 2
    message = "pictures need matplotlib: python -m pip install 'fffnb[train]'\n"
    assert capsys.readouterr().err == message


def test_readme_holds_the_table_of_the_measured_files(load):
    readme = load("readme")
    text = readme.README.read_text(encoding="utf-8")
    renewed = readme.renewed(text, readme.table(readme.CPU, readme.GPU))
    assert renewed == text, "README.md differs: python -m benchmarks.readme writes it"


def test_table_takes_the_fastest_dense_layer(load, tmp_path):
    readme = load("readme")
    sizes = {"n_in": 768, "n_out": 768, "depth": 12, "batch": 128}
    cpu = {"forward": 0.002, "step": 0.004, "ff": 0.5, "torch_ff": 0.25, "ff_compiled": None}
    files = {
        "cpu": {"machine": {"name": "a"}, "cases": [{**sizes, "seconds": cpu}]},
        "gpu": {"machine": {"name": "b"}, "forward": [], "step": []},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    table = readme.table(tmp_path / "cpu", tmp_path / "gpu")
    row = (
        "| forward, 768 → 768, depth 12, batch 128 | 4,095 neurons | – | 2 : 250 ms, **125×** | – |"
    )
    assert row in table.splitlines()
    assert sum("×**" in line for line in table.splitlines()) == 1


def test_readme_refuses_another_file_and_stays_as_it_is(file, refusal):
    before = (ROOT / "README.md").read_bytes()
    refused = refusal("readme", "--cpu", str(file))
    assert f"{file} must be a file of benchmarks.compare" in refused
    assert (ROOT / "README.md").read_bytes() == before


def test_crossover_writes_what_plot_draws(tmp_path):
    path = tmp_path / "crossover.json"
    measured = run("benchmarks.crossover", "--only", "256→256, 8, 64", "--json", str(path))
    assert measured.returncode == 0, measured.stderr
    forward, step = json.loads(path.read_text())["series"]
    assert (forward["what"], step["what"]) == ("forward", "step")
    for series in (forward, step):
        (point,) = series["points"]
        assert point["depth"] == 8
        assert {"fffnb", "dense"} <= set(point["seconds"])
        assert all(seconds > 0 for seconds in point["seconds"].values())
    assert forward["points"][0]["roof"] > 0
    assert run("benchmarks.plot", str(path), "--out", str(tmp_path)).returncode == 0
    assert (tmp_path / "depth-cpu.svg").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--json", "/no/folder/file.json"], "--json must name a file in a folder that exists"),
        (["--only", "no such case"], "--only must match one of"),
    ],
)
def test_crossover_refuses(words, reason):
    refused = run("benchmarks.crossover", *words)
    assert refused.returncode == 2
    assert reason in refused.stderr


def test_a_step_that_does_not_learn_is_found(load, monkeypatch):
    import numpy as np

    layers = load("crossover.layers")
    rng = np.random.default_rng(0)
    x, grad_y = rng.standard_normal((2, 9, 6), np.float32)
    nodes = rng.standard_normal((1, 7, 12), np.float32)
    layers.check_step(x, nodes, grad_y)
    monkeypatch.setattr(layers, "sgd", lambda lr: load("suite.problems").sgd(0.0))
    with pytest.raises(AssertionError, match="error"):
        layers.check_step(x, nodes, grad_y)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "benchmarks/measured").glob("crossover-*.json")), ids=str
)
def test_the_pictures_of_a_measured_file_are_in_the_docs(path, load):
    text = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    for name in load("plot").pictures(path):
        assert (ROOT / "docs" / name).exists()
        assert Path(name).with_suffix(".png").name in text
