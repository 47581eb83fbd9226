"""``python -m benchmarks.bridges torch``: what a bridge costs beside the same work in NumPy."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def main() -> None:
    """Measure one bridge."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bridges", description=__doc__)
    parser.add_argument("bridge", choices=NAMES)
    options, sys.argv[1:] = parser.parse_known_args()
    importlib.import_module(f"benchmarks.bridges.{options.bridge}").main()


if __name__ == "__main__":
    main()
