"""``python -m benchmarks.history``: measure commits, keep the results, and rebuild the site.

Results are kept in ``benchmarks/results/``, a folder for each machine; the site is written to
``.asv/html``. The suite is that of the checkout for all commits. Nothing is kept of a run in which
a commit does not build.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from .commits import (
    RESULTS,
    ROOT,
    RefusalError,
    check_clean,
    check_tools,
    find_commits,
    git,
    measure,
    regex,
    scratch_folder,
)

#: What tells machines apart.
FACTS = ("cpu", "num_cpu", "arch")


def find_machine(name: str | None) -> dict[str, str]:
    """Return the facts of a machine that is in the repository, by default of this one."""
    files = git("ls-files", f"{RESULTS.relative_to(ROOT)}/*/machine.json").splitlines()
    known = {(ROOT / file).parent.name: json.loads((ROOT / file).read_text()) for file in files}
    found = name_here(known) if name is None else name
    if found in known:
        return {key: fact for key, fact in known[found].items() if key != "version"}
    unknown = "this machine is none of" if name is None else f"there is no machine {name!r} among"
    listed = [f"{each} ({facts['num_cpu']} × {facts['cpu']})" for each, facts in known.items()]
    raise RefusalError(
        f"{unknown} {', '.join(listed)}. To add one, name its folder in .gitignore as theirs are, "
        "and commit benchmarks/results/NAME/machine.json; then give --machine NAME"
    )


def name_here(known: dict[str, dict[str, str]]) -> str | None:
    """Return the name of the one machine that is like this one."""
    check_tools()
    from asv.machine import Machine

    here = Machine.get_defaults()
    same = [name for name, facts in known.items() if all(facts[key] == here[key] for key in FACTS)]
    return same[0] if len(same) == 1 else None


def add(commits: Sequence[str], machine: dict[str, str], bench: Sequence[str]) -> None:
    """Measure commits and add their results to those in the repository."""
    name = machine["machine"]
    with scratch_folder() as folder:
        shutil.copytree(RESULTS / name, Path(folder, name))
        measure(commits, Path(folder), machine, bench)
        for file in (*Path(folder, name).iterdir(), Path(folder, "benchmarks.json")):
            file.replace(RESULTS / file.relative_to(folder))


def publish() -> None:
    """Write the site anew."""
    from asv.commands.publish import Publish
    from asv.config import Config

    with contextlib.chdir(ROOT):
        Publish.run(Config.load())


def main() -> None:
    """Add commits to the history."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description=__doc__)
    parser.add_argument("--machine", metavar="NAME", help="whose history (default: this machine's)")
    help_bench = "which benchmarks (default: all)"
    parser.add_argument("--bench", type=regex, action="append", metavar="REGEX", help=help_bench)
    parser.add_argument("commits", nargs="*", default=["HEAD"], help="or ranges (default: HEAD)")
    options = parser.parse_args()
    try:
        check_clean()
        machine = find_machine(options.machine)
        commits = [commit for name in options.commits for commit in find_commits(name)]
        add(list(dict.fromkeys(commits)), machine, options.bench or [])
    except RefusalError as refusal:
        parser.exit(2, f"{refusal}.\n")
    publish()


if __name__ == "__main__":
    main()
