"""What asv imports: one file per topic, their problems, and the truth they are checked against.

Each commit gets a kernel cache of its own, set before Numba is imported. asv knows this folder
alone; the checkout comes last on the path, so that `benchmarks` is found there, and fffnb where it
was installed.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMIT = os.environ.get("ASV_COMMIT", "worktree")
CACHE = ROOT / ".asv" / "kernels"  # cached kernels are code: keep them here
os.environ.setdefault("NUMBA_CACHE_DIR", str(CACHE / COMMIT))
sys.path.append(str(ROOT))
