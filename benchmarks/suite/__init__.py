"""What asv imports; each commit gets a kernel cache of its own, set before Numba is imported."""

import os
import tempfile

COMMIT = os.environ.get("ASV_COMMIT", "worktree")
os.environ.setdefault(
    "NUMBA_CACHE_DIR", os.path.join(tempfile.gettempdir(), "fffnb-asv-cache", COMMIT)
)
