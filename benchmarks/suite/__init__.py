"""What asv imports; each commit gets a kernel cache of its own, set before Numba is imported."""

import os
from pathlib import Path

COMMIT = os.environ.get("ASV_COMMIT", "worktree")
CACHE = Path(__file__).parents[2] / ".asv" / "kernels"  # cached kernels are code: keep them here
os.environ.setdefault("NUMBA_CACHE_DIR", str(CACHE / COMMIT))
