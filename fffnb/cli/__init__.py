"""The command line: ``fffnb train``, ``fffnb predict``, ``fffnb info``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .. import __version__
from . import info, predict, train


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; errors of the user are printed in one sentence.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments, by default those of the process.

    Returns
    -------
    int
        Exit status: 0, 2 after an error, 130 after an interruption.

    Examples
    --------
    >>> from fffnb.cli import main
    >>> main(["predict", "missing.safetensors"])
    2
    """
    parser = argparse.ArgumentParser(
        prog="fffnb", description="Train and use Fast FeedForward networks."
    )
    parser.add_argument("--version", action="version", version=f"fffnb {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (train, predict, info):
        command.add_parser(commands).set_defaults(run=command.run)
    options = parser.parse_args(argv)
    try:
        status: int = options.run(options)
    except KeyboardInterrupt:
        print("fffnb: interrupted", file=sys.stderr)
        return 130
    except (TypeError, ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
        print(f"fffnb: error: {error}", file=sys.stderr)
        return 2
    return status
