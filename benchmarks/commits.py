"""Run benchmarks of the suite at commits, with airspeed velocity, into a folder of results."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import math
import os
import re
import subprocess
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

#: What asv measured and the repository keeps, and a folder of its file system that git ignores.
RESULTS, SCRATCH = ROOT / "benchmarks" / "results", ROOT / ".asv"

#: The figure of each benchmark and its parameters, lower is better; None where it failed.
Figures = dict[str, float | None]


class RefusalError(Exception):
    """Says in words why a command did not do its work."""


def check_tools() -> None:
    """Refuse where the tools that run benchmarks at commits are missing."""
    for tool in ("asv", "virtualenv"):
        if importlib.util.find_spec(tool) is None:
            raise RefusalError(f"{tool} is not installed: python -m pip install 'fffnb[bench]'")


def regex(text: str) -> str:
    """Return an argument that must be a regular expression, before asv builds anything for it."""
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text} is no regular expression: {error}") from None
    return text


def check_clean() -> None:
    """Refuse a tree with changes; results may be there that nobody has committed yet."""
    changes = git("status", "--porcelain", "--", ".", f":!{RESULTS.relative_to(ROOT)}")
    if changes:
        paths = ", ".join(line.split(maxsplit=1)[1] for line in changes.splitlines()[:3])
        raise RefusalError(f"commits are measured, but the tree has changes ({paths}): commit them")


def find_commits(name: str) -> list[str]:
    """Return the commit, or the commits of a range, newest first."""
    try:
        commits = git("rev-list", "--no-walk", name, "--").split()
    except RefusalError:
        raise RefusalError(f"{name} names no commit or range of this repository") from None
    if not commits:
        raise RefusalError(f"{name} is a range without commits")
    return commits


def git(*arguments: str, **variables: str) -> str:
    """Return what git prints in the checkout."""
    run = subprocess.run(
        ["git", *arguments],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise RefusalError(f"git {arguments[0]} failed: {run.stderr.strip()}")
    return run.stdout.rstrip("\n")


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder for results that are not finished."""
    SCRATCH.mkdir(exist_ok=True)
    return tempfile.TemporaryDirectory(dir=SCRATCH)


def measure(
    commits: Sequence[str],
    results: Path,
    machine: dict[str, str],
    bench: Sequence[str] = (),
    *,
    interleave: bool = False,
) -> list[Figures]:
    """Run benchmarks at commits.

    Parameters
    ----------
    commits : sequence of str
        Their hashes. Each is built and installed into an environment that asv makes.
    results : Path
        The folder for asv's files.
    machine : dict of str
        The facts of the machine, its name as "machine".
    bench : sequence of str
        Regular expressions that benchmarks must match; without any, all run.
    interleave : bool
        Take the commits in turn, forth and back again, and keep all samples of a time.

    Returns
    -------
    list of Figures
        For each commit what compares: times, and peaks of memory. A time is the shortest of its
        samples where they were kept, since what disturbs a machine only adds. Benchmarks that were
        skipped are left out.

    Raises
    ------
    RefusalError
        Where a tool is missing, no benchmark matches, asv cannot make its environment, or a commit
        does not build.
    """
    check_tools()
    from asv.commands.run import Run
    from asv.config import Config
    from asv.console import log
    from asv.machine import MachineCollection
    from asv.util import ProcessError, UserError

    show_progress()
    ran: dict[str, Any] = {}
    with contextlib.chdir(ROOT), tempfile.TemporaryDirectory() as folder:
        config = Config.load()
        config.results_dir = str(results)
        machines = os.path.join(folder, "machines.json")
        MachineCollection.save(machine["machine"], machine, _path=machines)
        try:
            Run.run(
                config,
                list(commits),
                bench=list(bench),
                machine=machine["machine"],
                pull=False,
                interleave_rounds=interleave,
                record_samples=interleave,
                _returns=ran,
                _machine_file=machines,
            )
        except tomllib.TOMLDecodeError as error:
            raise RefusalError(f"pyproject.toml is no TOML: {error}") from None
        except (ProcessError, UserError) as error:
            reason = str(error).rstrip(".")
            raise RefusalError(f"asv could not run the benchmarks: {reason}") from None
        finally:
            log.flush()
    if not ran:
        raise RefusalError(f"no benchmark of {' or '.join(bench) or 'any name'} ran: see above")
    return [read_figures(commit, results / machine["machine"], ran) for commit in commits]


@functools.cache
def show_progress() -> None:
    """Let asv print what it does; called twice, it would print everything twice."""
    from asv.console import log

    log.enable()


def read_figures(commit: str, folder: Path, ran: dict[str, Any]) -> Figures:
    """Return the figures in the file that asv wrote for a commit."""
    from asv.commands.compare import unroll_result
    from asv.results import Results, get_filename

    (environment,) = ran["environments"]
    file = Path(get_filename(folder.name, commit, environment.name)).name
    results = Results.load(str(folder / file), folder.name)
    if all(results.duration.get(name) is None for name in ran["benchmarks"]):
        raise RefusalError(f"{commit[:8]} does not build: see above")
    figures: Figures = {}
    for name, benchmark in ran["benchmarks"].items():
        if benchmark["type"] == "track" and benchmark["unit"] != "bytes":
            continue
        params = benchmark["params"]
        values = results.get_result_value(name, params)
        samples = results.get_result_samples(name, params)
        for case, value, times in unroll_result(name, params, values, samples):
            if value is None or not math.isnan(value):
                figures[case] = min(times) if times else value
    return figures
