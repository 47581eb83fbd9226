"""What a new process pays: imports and first calls."""

FIRST_CALL = """
import numpy as np, fffnb
fffnb.fff_forward(np.ones((1, 8), np.float32), fffnb.init_nodes(8, 4, 3))
"""

NO_CACHE = """
import os, tempfile
os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp()
"""


def timeraw_import_numba() -> str:
    """Return the floor of the import."""
    return "import numba"


def timeraw_import_fffnb() -> str:
    """Return the import."""
    return "import fffnb"


def timeraw_first_call_cached() -> str:
    """Return import and first forward call, with a kernel from the disk cache."""
    return FIRST_CALL


def timeraw_first_call_compiled() -> str:
    """Return import and first forward call, which compiles the kernel."""
    return NO_CACHE + FIRST_CALL
