"""The history takes whole results of known machines, and nothing else."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = Path("benchmarks", "results")

#: What a checkout needs of `benchmarks`.
COMMANDS = ("__init__", "commits", "history")


@pytest.fixture
def checkout(tmp_path):
    """Return a repository of one commit: the commands and a known machine."""
    (tmp_path / "benchmarks").mkdir()
    for name in ("asv.conf.json", ".gitignore", *(f"benchmarks/{each}.py" for each in COMMANDS)):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / RESULTS, tmp_path / RESULTS)
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", "--all")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=b", "commit", "-q", "-m", "one")
    return tmp_path


@pytest.fixture
def history(checkout, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    module = importlib.import_module("benchmarks.history")
    for name in ("commits.ROOT", "history.ROOT"):
        monkeypatch.setattr(f"benchmarks.{name}", checkout)
    monkeypatch.setattr("benchmarks.commits.SCRATCH", checkout / ".asv")
    monkeypatch.setattr(module, "RESULTS", checkout / RESULTS)
    return module


def git(folder, *arguments):
    command = ["git", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def run(folder, *arguments):
    command = [sys.executable, "-m", "benchmarks.history", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["abacus", ""])
def test_an_unknown_machine_is_refused_with_those_known(checkout, name):
    refused = run(checkout, "--machine", name)
    assert refused.returncode == 2
    assert f"there is no machine {name!r} among cpu-2core (2 × " in refused.stderr
    assert "benchmarks/results/NAME/machine.json" in refused.stderr
    assert not git(checkout, "status", "--porcelain")


def test_what_is_no_regular_expression_is_refused(checkout):
    refused = run(checkout, "--machine", "cpu-2core", "--bench", "(")
    assert refused.returncode == 2 and "( is no regular expression: missing )" in refused.stderr


def test_a_machine_that_git_does_not_hold_is_unknown(checkout):
    folder = checkout / RESULTS / "abacus"  # as `asv run` leaves it, on a machine named so
    folder.mkdir()
    shutil.copy(checkout / RESULTS / "cpu-2core" / "machine.json", folder)
    assert not git(checkout, "status", "--porcelain")
    assert "no machine 'abacus'" in run(checkout, "--machine", "abacus").stderr


def test_a_tree_with_changes_is_refused_but_results_may_wait_for_their_commit(checkout):
    (checkout / RESULTS / "cpu-2core" / "1234abcd-new.json").write_text("{}")
    unknown = run(checkout, "--machine", "cpu-2core", "nowhere")
    assert unknown.returncode == 2 and "nowhere names no commit" in unknown.stderr
    (checkout / "asv.conf.json").write_text("{}")
    dirty = run(checkout, "--machine", "cpu-2core", "nowhere")
    assert dirty.returncode == 2 and "the tree has changes (asv.conf.json)" in dirty.stderr


def test_machines_are_known_by_their_facts(history, monkeypatch):
    machine = pytest.importorskip("asv.machine").Machine
    known = history.find_machine("cpu-2core")
    assert known["machine"] == "cpu-2core" and "version" not in known
    monkeypatch.setattr(machine, "get_defaults", lambda: {**known, "machine": "here", "ram": "1"})
    assert history.find_machine(None) == known
    monkeypatch.setattr(machine, "get_defaults", lambda: {**known, "num_cpu": "64"})
    with pytest.raises(Exception, match="this machine is none of cpu-2core"):
        history.find_machine(None)


def test_finished_results_join_the_old_ones(history, checkout, monkeypatch):
    def measure(commits, results, machine, bench):
        assert (results / "cpu-2core" / "machine.json").exists()
        (results / "cpu-2core" / "12345678-env.json").write_text("{}")
        (results / "benchmarks.json").write_text("[]")

    monkeypatch.setattr(history, "measure", measure)
    history.add(["12345678"], history.find_machine("cpu-2core"), [])
    changed = git(checkout, "status", "--porcelain", "-uall")
    assert f"?? {RESULTS}/cpu-2core/12345678-env.json" in changed.splitlines()
    assert json.loads((checkout / RESULTS / "benchmarks.json").read_text()) == []


def test_a_run_that_fails_leaves_nothing(history, checkout, monkeypatch):
    refusal = importlib.import_module("benchmarks.commits").RefusalError

    def measure(commits, results, machine, bench):
        (results / "cpu-2core" / "12345678-env.json").write_text("{")
        raise refusal("it does not build")

    monkeypatch.setattr(history, "measure", measure)
    with pytest.raises(refusal, match="does not build"):
        history.add(["12345678"], history.find_machine("cpu-2core"), [])
    assert not git(checkout, "status", "--porcelain", "-uall")
    assert not list((checkout / ".asv").iterdir())


def test_kept_results_name_a_known_machine_and_no_place_of_it():
    results = list((ROOT / RESULTS).glob("*/*.json"))
    assert len(results) > 10
    for path in results:
        kept = json.loads(path.read_text())
        name = kept["machine"] if path.name == "machine.json" else kept["params"]["machine"]
        assert name == path.parent.name
        assert str(Path.home()) not in path.read_text()
