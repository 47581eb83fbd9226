"""``python -m benchmarks.gate``: refuse a commit that makes benchmarks slower.

The benchmarks that a change affects run at BASE and at HEAD, in interleaved rounds. A twin of BASE,
the same files in another commit, runs with them: how far BASE and its twin differ is what the
machine's noise can do. A benchmark has changed when HEAD differs from BASE by more than the largest
of: the factor asked for, the noise of this benchmark, and the 90 % quantile of the noise of all.
Their median tells that quantile, as if the noise were normal, so that one benchmark that was
disturbed does not hide the others. What has changed must do so twice more in runs of its own.
Exit status: 0, 1 on a regression, 2 when nothing could be measured.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from .commits import (
    Figures,
    RefusalError,
    check_clean,
    find_commits,
    git,
    measure,
    regex,
    scratch_folder,
)

#: Files of the suite that run kernels of the CPU, and all that an op or a layout may slow down.
KERNELS = (
    *("backward", "bag", "balance", "flat", "forward", "leaf", "memory", "soft", "step", "update"),
)
ALL = (*KERNELS, "gpu", "startup", "overhead")

#: Which files of the suite time what lies in a folder, or in a file, of the package.
AFFECTED = {
    "fffnb/cpu/": KERNELS,
    "fffnb/cuda/": ("gpu",),
    "fffnb/nn/": ("step",),
    "fffnb/leaves.py": ("leaf", "startup"),
    "fffnb/nodes.py": ALL,
    "fffnb/ops/": ALL,
    "fffnb/init.py": ("startup",),
    "fffnb/__init__.py": ("startup",),
}

#: The least slowdown that is called one.
FACTOR = 1.15

#: How often a benchmark must be found changed.
LOOKS = 3

#: How many times its median the 90 % quantile of a normal deviation is.
SPREAD = 1.645 / 0.674


class Change(NamedTuple):
    """A benchmark at HEAD, by how many times BASE; infinite where it fails at HEAD alone."""

    case: str
    ratio: float
    threshold: float

    @property
    def word(self) -> str:
        """What has happened: "slower", "faster", or nothing."""
        if self.ratio > self.threshold:
            return "slower"
        return "faster" if self.ratio * self.threshold < 1 else ""


def affected(paths: Iterable[str]) -> list[str]:
    """Return regular expressions of the benchmarks that changes of these files affect."""
    topics = {
        topic
        for path in paths
        for place, topics in AFFECTED.items()
        if path.startswith(place)
        for topic in topics
    }
    return [rf"^{topic}\." for topic in sorted(topics)]


def find_base(name: str | None) -> str:
    """Return the commit of that name, by default where HEAD left main; on main its parent."""
    if name is None:
        try:
            name = git("merge-base", "main", "HEAD")
        except RefusalError:
            raise RefusalError("no branch main shares a commit with HEAD: give BASE") from None
        if name == git("rev-parse", "HEAD"):
            name = "HEAD^"
    base, *others = find_commits(name)
    if others:
        raise RefusalError(f"BASE must be one commit, got the range {name}")
    if base == git("rev-parse", "HEAD"):
        raise RefusalError(f"BASE and HEAD are the same commit, {base[:8]}")
    return base


def make_twin(commit: str) -> str:
    """Return another commit of the same files; no branch holds it, so git forgets it in time."""
    date = git("show", "-s", "--format=%cI", commit)
    who = {
        f"GIT_{role}_{key}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in (("NAME", "gate"), ("EMAIL", "gate"), ("DATE", date))
    }
    message = f"Measure {commit[:8]} again"
    return git("commit-tree", f"{commit}^{{tree}}", "-p", commit, "-m", message, **who)


def compare(base: Figures, head: Figures, twin: Figures, factor: float) -> list[Change]:
    """Return what BASE, HEAD and BASE's twin say about each benchmark that ran at all of them."""
    cases = [case for case in base if case in head and case in twin]
    pairs = [(base[case], twin[case]) for case in cases]
    noises = [1.0 if not (a and b) else max(a, b) / min(a, b) for a, b in pairs]
    common = max(factor, statistics.median(noises) ** SPREAD) if noises else factor
    changes = []
    for case, (a, b), noise in zip(cases, pairs, noises, strict=True):
        before, after = math.sqrt(a * b) if a and b else None, head[case]
        if before and after:
            ratio = after / before
        else:
            ratio = math.inf if before else 0.0 if after else 1.0
        changes.append(Change(case, ratio, max(common, noise)))
    return changes


def look(commits: Sequence[str], bench: Sequence[str], factor: float) -> list[Change]:
    """Return the changes between BASE and HEAD, the commits being BASE, HEAD and BASE's twin."""
    with scratch_folder() as folder:
        base, head, twin = measure(
            commits, Path(folder), {"machine": "here"}, bench, interleave=True
        )
    return compare(base, head, twin, factor)


def look_again(commits: Sequence[str], bench: Sequence[str], factor: float) -> list[Change]:
    """Return the changes; what a look finds changed is as further looks of its own say."""
    changes = look(commits, bench, factor)
    for _ in range(LOOKS - 1):
        suspects = [f"^{re.escape(change.case)}$" for change in changes if change.word]
        if not suspects:
            break
        again = {change.case: change for change in look(commits, suspects, factor)}
        changes = [
            again[change.case]._replace(
                threshold=max(change.threshold, again[change.case].threshold)
            )
            if change.case in again
            else change
            for change in changes
        ]
    return changes


def report(changes: Sequence[Change]) -> str:
    """Return a table of what is slower or faster, the worst first, and what was compared."""
    named = sorted((change for change in changes if change.word), key=lambda change: -change.ratio)
    rows = [(change.word, change.ratio, change.threshold, change.case) for change in named]
    lines = ["        ratio  threshold  benchmark"] if named else []
    lines += [f"{word}  {ratio:5.2f}  {least:9.2f}  {case}" for word, ratio, least, case in rows]
    slower = sum(change.word == "slower" for change in named)
    lines.append(f"{slower} slower, {len(named) - slower} faster of {len(changes)} benchmarks.")
    if changes:
        thresholds = sorted(change.threshold for change in changes)
        lines.append(f"Thresholds from {thresholds[0]:.2f} to {thresholds[-1]:.2f}.")
    return "\n".join(lines)


def main() -> int:
    """Compare HEAD with BASE, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=__doc__)
    parser.add_argument("base", nargs="?", help="a commit (default: where HEAD left main)")
    help_bench = "which benchmarks (default: those that the changes affect)"
    parser.add_argument("--bench", type=regex, action="append", metavar="REGEX", help=help_bench)
    parser.add_argument("--factor", type=float, default=FACTOR, help="least slowdown that counts")
    options = parser.parse_args()
    if not options.factor > 1:
        parser.error(f"--factor must be greater than 1, got {options.factor}")
    try:
        check_clean()
        base = find_base(options.base)
        bench = options.bench or affected(git("diff", "--name-only", base, "HEAD").splitlines())
        if not bench:
            print(f"Nothing changed since {base[:8]} that a benchmark times.")
            return 0
        commits = (base, git("rev-parse", "HEAD"), make_twin(base))
        changes = look_again(commits, bench, options.factor)
    except RefusalError as refusal:
        parser.exit(2, f"{refusal}.\n")
    print(report(changes))
    return int(any(change.word == "slower" for change in changes))


if __name__ == "__main__":
    raise SystemExit(main())
