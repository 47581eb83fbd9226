"""The gate names what a commit makes slower, and nothing else."""

import importlib
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]

slow = pytest.mark.skipif(
    "FFFNB_TEST_GATE" not in os.environ,
    reason="builds and measures commits for most of an hour: set FFFNB_TEST_GATE=1",
)

#: What the slow tests measure.
BENCH = r"^forward\..*'(base|batch=1|batch=16|width=128)'\)$"

#: 1.3 times as long, whatever the call takes.
SLOWDOWN = """

import time

_fff_forward = fff_forward


def fff_forward(*arguments, **options):
    begin = time.perf_counter()
    result = _fff_forward(*arguments, **options)
    end = begin + 1.3 * (time.perf_counter() - begin)
    while time.perf_counter() < end:
        pass
    return result
"""


@pytest.fixture
def gate(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.gate")


@pytest.fixture
def checkout(tmp_path):
    """Return a repository with the commands and a kernel in two commits."""
    ignored = shutil.ignore_patterns("__pycache__", "suite", "compare", "peers")
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks", ignore=ignored)
    for name in ("asv.conf.json", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path)
    kernel = tmp_path / "fffnb" / "cpu" / "tree.py"
    kernel.parent.mkdir(parents=True)
    git(tmp_path, "init", "-q", "-b", "main")
    for text in ("one", "two"):
        kernel.write_text(text)
        commit(tmp_path, text)
    return tmp_path


def git(folder, *arguments):
    who = ("-c", "user.name=a", "-c", "user.email=b")
    command = ["git", *who, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def commit(folder, message):
    git(folder, "add", "--all")
    git(folder, "commit", "-q", "--allow-empty", "-m", message)


def run(folder, module, *arguments):
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_every_place_exists_and_every_timed_topic_is_affected_by_one(gate):
    assert all((ROOT / place).exists() for place in gate.AFFECTED)
    suite = (ROOT / "benchmarks" / "suite").glob("*.py")
    timed = {
        file.stem for file in suite if re.search(r"def (time|timeraw|peakmem)_", file.read_text())
    }
    assert timed <= {topic for topics in gate.AFFECTED.values() for topic in topics}


def test_a_change_affects_the_topics_of_its_folder(gate):
    assert gate.affected(["fffnb/cuda/tree.py", "README.md"]) == [r"^gpu\."]
    assert gate.affected(["fffnb/nn/fit.py", "fffnb/__init__.py"]) == [r"^startup\.", r"^step\."]
    assert gate.affected(["fffnb/bridges/torch.py", "docs/cpu-kernels.md"]) == []


def test_a_change_beyond_factor_and_noise_is_named(gate):
    base = {"a": 1.0, "b": 1.0, "c": 1.0}
    head = {"a": 1.3, "b": 1.0, "c": 1 / 1.3}
    changes = gate.compare(base, head, {"a": 1.0, "b": 1.0, "c": 1.0}, 1.15)
    assert [change.word for change in changes] == ["slower", "", "faster"]
    text = gate.report(changes)
    assert text.index("slower   1.30       1.15  a") < text.index("faster   0.77       1.15  c")
    assert "1 slower, 1 faster of 3 benchmarks" in text


def test_a_change_within_the_noise_is_not_named(gate):
    base = {str(i): 1.0 for i in range(20)}
    head = dict.fromkeys(base, 1.3)
    (change, *_) = gate.compare(base, head, {**base, "0": 2.0}, 1.15)
    assert (change.threshold, change.word) == (2.0, "")  # its own noise
    assert gate.compare(base, head, {**base, "0": 2.0}, 1.15)[1].word == "slower"
    changes = gate.compare(base, head, dict.fromkeys(base, 1.2), 1.15)
    assert all(1.2 < change.threshold < 1.6 for change in changes)  # that of all
    assert not any(change.word for change in changes)


def test_a_benchmark_that_head_breaks_is_slower_and_one_it_mends_faster(gate):
    base = {"broken": 1.0, "mended": None, "both": None, "gone": 1.0}
    head = {"broken": None, "mended": 1.0, "both": None}
    changes = gate.compare(base, head, base, 1.15)
    assert [change.word for change in changes] == ["slower", "faster", ""]
    assert math.isinf(changes[0].ratio)
    assert "inf" in gate.report(changes)


@pytest.mark.parametrize(
    ("ratios", "word"), [((1.4, 1.4, 1.4), "slower"), ((1.4, 1.0), ""), ((1.4, 1.4, 1.0), "")]
)
def test_what_a_further_look_does_not_see_is_not_named(gate, monkeypatch, ratios, word):
    asked = []

    def measure(commits, results, machine, bench, *, interleave):
        head = {"f(1, 'a')": ratios[len(asked)], "g": 1.0}
        asked.append(list(bench))
        return [dict.fromkeys(head, 1.0), head, dict.fromkeys(head, 1.0)]

    monkeypatch.setattr(gate, "measure", measure)
    changes = gate.look_again(["base", "head", "twin"], [r"^forward\."], 1.15)
    assert [change.word for change in changes] == [word, ""]
    assert len(asked) == len(ratios)
    assert all(len(bench) == 1 and re.search(bench[0], "f(1, 'a')") for bench in asked[1:])


def test_a_twin_has_the_files_of_its_commit(checkout, gate, monkeypatch):
    monkeypatch.setattr("benchmarks.commits.ROOT", checkout)
    head = git(checkout, "rev-parse", "HEAD").strip()
    twin = gate.make_twin(head)
    assert twin != head and not git(checkout, "diff", head, twin)
    assert gate.make_twin(head) == twin
    assert git(checkout, "rev-parse", "HEAD").strip() == head


def test_tools_that_are_missing_are_named_with_their_extra(gate, monkeypatch):
    commits = importlib.import_module("benchmarks.commits")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(commits.RefusalError, match=r"asv is not installed.*fffnb\[bench\]"):
        commits.check_tools()


def test_a_time_is_its_shortest_sample_and_only_what_was_not_built_is_refused(gate, tmp_path):
    results = pytest.importorskip("asv.results").Results
    kept = results({"machine": "here"}, {}, "1" * 40, 0, "3.12", "env", {})
    benchmark = {"name": "f", "params": [["1", "2", "3"]], "version": "1", "type": "time"}
    measured = SimpleNamespace(
        result=[None, math.nan, 3.0],
        samples=[None, None, [2.0, 4.0, 3.0]],
        number=[None, None, 1],
        **{"errcode": 1, "stderr": "", "profile": None},
    )
    ran = {"environments": [SimpleNamespace(name="env")], "benchmarks": {"f": benchmark}}
    commits = importlib.import_module("benchmarks.commits")
    kept.add_result(benchmark, measured, duration=1.0, record_samples=True)
    kept.save(tmp_path)
    figures = commits.read_figures("1" * 40, tmp_path / "here", ran)
    assert figures == {"f(1)": None, "f(3)": 2.0}
    kept.add_result(benchmark, measured)  # asv gives a benchmark that never started no duration
    kept.save(tmp_path)
    with pytest.raises(commits.RefusalError, match="11111111 does not build"):
        commits.read_figures("1" * 40, tmp_path / "here", ran)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere names no commit"),
        (["HEAD"], "BASE and HEAD are the same commit"),
        (["HEAD~2"], "HEAD~2 names no commit"),
        (["main..main"], "main..main is a range without commits"),
        (["--factor", "1"], "--factor must be greater than 1, got 1.0"),
        (["--bench", "("], "( is no regular expression: missing )"),
    ],
)
def test_the_gate_refuses_what_it_cannot_compare(checkout, arguments, words):
    gate = run(checkout, "gate", *arguments)
    assert gate.returncode == 2 and words in gate.stderr, gate.stderr


def test_the_gate_refuses_a_tree_with_changes(checkout):
    (checkout / "new.py").write_text("")
    gate = run(checkout, "gate")
    assert gate.returncode == 2 and "the tree has changes (new.py)" in gate.stderr


def test_the_gate_has_nothing_to_do_where_no_benchmark_is_affected(checkout):
    git(checkout, "switch", "-q", "-c", "words")
    (checkout / "README.md").write_text("Words")
    commit(checkout, "Say more")
    gate = run(checkout, "gate")
    assert gate.returncode == 0 and "Nothing changed since" in gate.stdout, gate.stderr


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Return a clone of this commit, with an environment of asv of its own."""
    folder = tmp_path_factory.mktemp("clone")
    git(folder, "clone", "-q", str(ROOT), ".")
    git(folder, "switch", "-q", "-C", "main")
    return folder


@slow
def test_the_gate_catches_a_planted_slowdown(clone):
    operation = clone / "fffnb" / "ops" / "tree.py"
    before = operation.read_text()
    operation.write_text(before + SLOWDOWN)
    commit(clone, "Plant a slowdown of 1.3")
    gate = run(clone, "gate", "--bench", BENCH)
    git(clone, "revert", "--no-edit", "HEAD")
    assert gate.returncode == 1, gate.stdout + gate.stderr
    ratios = [float(each) for each in re.findall(r"^slower +([\d.]+)", gate.stdout, re.MULTILINE)]
    assert ratios and all(1.15 < ratio < 1.5 for ratio in ratios), gate.stdout


@slow
@pytest.mark.parametrize("time", range(5))
def test_the_gate_passes_an_identical_commit(clone, time):
    commit(clone, f"Change nothing, time {time}")
    gate = run(clone, "gate", "--bench", BENCH)
    assert gate.returncode == 0, gate.stdout + gate.stderr
    assert re.search(r"^0 slower, \d+ faster of [1-9]", gate.stdout, re.MULTILINE), gate.stdout


@slow
@pytest.mark.parametrize("module", ["gate", "history"])
@pytest.mark.parametrize(
    ("project", "words"),
    [
        (
            '[build-system]\nbuild-backend = "nowhere"\nrequires = []',
            "does not build|Failed to build",
        ),
        ("no table", "pyproject.toml is no TOML"),
    ],
)
def test_a_commit_that_does_not_build_is_refused(clone, module, project, words):
    (clone / "pyproject.toml").write_text(project)
    commit(clone, "Break the build")
    machine = ["--machine", "cpu-2core"] if module == "history" else []
    refused = run(clone, module, *machine, "--bench", BENCH)
    assert not git(clone, "status", "--porcelain")
    git(clone, "revert", "--no-edit", "HEAD")
    assert refused.returncode == 2 and re.search(words, refused.stderr), refused.stderr
