"""Compiled kernels on disk, so that a process does not compile what another has compiled.

A file is named by a digest of all that the machine code follows from: the sources of the package's
kernels, the constants that a kernel captures, its argument types, the GPU's architecture, and the
versions of the compilers. It begins with a digest of the rest, by which a file that was cut short
or altered is known and not used.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DIGEST = hashlib.sha256().digest_size


def load(key: str) -> tuple[str, bytes] | None:
    """Return the name and the machine code of a kernel, or None where they are not at hand."""
    try:
        content = (folder() / key).read_bytes()
    except OSError:
        return None
    digest, rest = content[:DIGEST], content[DIGEST:]
    name, separator, code = rest.partition(b"\0")
    if not separator or hashlib.sha256(rest).digest() != digest:
        return None
    return name.decode(), code


def save(key: str, name: str, code: bytes) -> None:
    """Keep the machine code of a kernel, where there is a place for it."""
    rest = name.encode() + b"\0" + code
    with contextlib.suppress(OSError):
        place = folder()
        place.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=place)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(rest).digest() + rest)
            os.replace(temporary, place / key)
        except OSError:
            os.unlink(temporary)
            raise


def folder() -> Path:
    """Return where compiled kernels lie: NUMBA_CACHE_DIR, or the user's cache directory."""
    import numba
    from numba.misc import appdirs

    config: Any = numba.config
    of_user: Any = appdirs.user_cache_dir
    return Path(config.CACHE_DIR or of_user("numba", False)) / "fffnb-cuda"


def key_of(body: Callable[..., None], types: tuple[Any, ...], target: str) -> str:
    """Return the name of the file of a kernel."""
    parts = [_versions(), target, *map(str, types), *_constants(body)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@functools.cache
def _versions() -> str:
    """Return a digest of the sources of all kernels, and the versions of what compiles them."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for source in [*sorted(here.glob("*.py")), here.parent / "activations.py"]:
        digest.update(source.read_bytes())
    packages = ("numba-cuda", "numba", "llvmlite", "cuda-core")
    return digest.hexdigest() + str([importlib.metadata.version(name) for name in packages])


def _constants(function: Callable[..., Any]) -> Iterator[str]:
    """Yield the name of a function and what it captures, and so on for what it calls."""
    yield f"{function.__module__}.{function.__qualname__}"
    for cell in function.__closure__ or ():
        value = cell.cell_contents
        called = getattr(value, "py_func", None) or getattr(value, "_defn", None)
        if called is None and callable(value) and hasattr(value, "__closure__"):
            called = value
        if called is None:
            yield repr(value)
        else:
            yield from _constants(called)
