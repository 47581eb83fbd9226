"""Named arrays and their metadata in one safetensors file: written whole or not at all.

The metadata is one JSON object; beside it stands a CRC-32 of that text and of every array's name,
dtype, shape and bytes, so that a damaged file is refused instead of read as something else.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT = "fffnb"
VERSION = 1

#: The dtypes that a file may hold, by their safetensors names.
DTYPES = {"F32": "float32", "F64": "float64", "I32": "int32", "I64": "int64", "U8": "uint8"}


class FileError(ValueError):
    """A file that cannot be written, or that is not what its reader expects."""


def write_arrays(
    path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any]
) -> None:
    """Write arrays and metadata to a file, or leave the old file as it was.

    The new file is written beside `path`, flushed to the disk and renamed over the old one, whose
    permissions it takes. Where `path` is a symbolic link, the file that it names is replaced.

    Parameters
    ----------
    path : path
        File to write, in a folder that exists.
    arrays : mapping of str to ndarray
        float32, float64, int32, int64 or uint8, of any shape, layout and byte order.
    metadata : mapping
        What `json` can write; ``metadata["kind"]`` is the word that `read_arrays` asks for.
        ``"format"`` and ``"version"`` are added.

    Raises
    ------
    TypeError, ValueError
        If `arrays` or `metadata` hold what a file cannot; nothing is written then.
    FileError
        If the file cannot be written; says why.
    ImportError
        If safetensors is not installed.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from fffnb.files import read_arrays, write_arrays
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "a.safetensors")
    ...     write_arrays(path, {"a": np.arange(3)}, {"kind": "model", "name": "small"})
    ...     arrays, metadata = read_arrays(path, kind="model")
    >>> arrays["a"], metadata["name"]
    (array([0, 1, 2]), 'small')
    """
    error_type, _ = _safetensors()
    from safetensors.numpy import save_file

    if not isinstance(metadata.get("kind"), str):
        raise ValueError(f"metadata must have a str 'kind', got {metadata.get('kind')!r}")
    text = json.dumps({**metadata, "format": FORMAT, "version": VERSION})
    arrays = {name: _plain(name, array) for name, array in arrays.items()}
    strings = {FORMAT: text, "crc32": _checksum(text, arrays)}
    try:
        with replacing(path) as temporary:
            save_file(arrays, temporary, strings)
    except error_type as error:
        raise FileError(f"{os.fspath(path)} cannot be written: {_reason(error)}") from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """Give the name of a new file that takes the place of `path` when the block ends well.

    Parameters
    ----------
    path : path
        File to replace or create, in a folder that exists.

    Yields
    ------
    str
        Name of an empty file beside it, to be written in the block. It is flushed to the disk and
        renamed at the end, with the permissions of the old file; after an error it is removed.

    Raises
    ------
    FileError
        If the file cannot be written; the old one is as it was.

    Examples
    --------
    >>> import os, tempfile
    >>> from fffnb.files import replacing
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "words.txt")
    ...     with replacing(path) as temporary, open(temporary, "w") as file:
    ...         _ = file.write("all of it")
    ...     with open(path) as file:
    ...         file.read()
    'all of it'
    """
    target = os.path.realpath(path)
    temporary = os.path.join(os.path.dirname(target), f".fffnb-{secrets.token_hex(8)}.tmp")
    try:
        mode = _create(temporary, target)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, mode)  # safetensors 0.8 leaves 0600
        os.replace(temporary, target)
    except OSError as error:
        raise FileError(f"{os.fspath(path)} cannot be written: {_reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def read_arrays(
    path: str | os.PathLike[str], *, kind: str
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read a file of `write_arrays`, checking everything and executing nothing.

    Memory is allocated only for arrays whose bytes are in the file.

    Parameters
    ----------
    path : path
        File to read.
    kind : str
        The ``"kind"`` that its metadata must have.

    Returns
    -------
    arrays : dict of str to ndarray
        Own, writeable, C-contiguous arrays of native byte order.
    metadata : dict
        As written (tuples come back as lists), with ``"format"`` and ``"version"``.

    Raises
    ------
    FileError
        If the file is missing, truncated, damaged, of another format, version or kind; says which.
    ImportError
        If safetensors is not installed.

    Examples
    --------
    See `write_arrays`.
    """
    error_type, safe_open = _safetensors()
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise ValueError("it is no regular file")
        with safe_open(os.fspath(path), framework="np") as file:
            strings = file.metadata() or {}
            metadata = _metadata(strings, kind)
            arrays = {name: _array(file, name) for name in file.keys()}  # noqa: SIM118
        if strings.get("crc32") != _checksum(strings[FORMAT], arrays):
            raise ValueError("it is damaged: the checksum does not match")
    except (OSError, MemoryError, ValueError, error_type) as error:
        raise FileError(f"{os.fspath(path)} is no readable {kind}: {_reason(error)}") from error
    return arrays, metadata


def _safetensors() -> tuple[type[Exception], Any]:
    """Import safetensors on first use; return its exception and its reader."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError("model files need safetensors: pip install 'fffnb[train]'") from error
    return SafetensorError, safe_open


def _plain(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return the array C-contiguous and native, a copy only where it must be."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"arrays[{name!r}] must be a numpy.ndarray, got {type(array).__name__}")
    if array.dtype.name not in DTYPES.values():
        raise TypeError(
            f"arrays[{name!r}] must be one of {', '.join(DTYPES.values())}, got {array.dtype}"
        )
    if name == "__metadata__":
        raise ValueError("arrays must not use the name '__metadata__', which is the file's own")
    return np.asarray(array, array.dtype.newbyteorder("="), order="C")


def _checksum(text: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the CRC-32 of the metadata and of every array's name, dtype, shape and bytes."""
    crc = zlib.crc32(text.encode())
    for name, array in sorted(arrays.items()):
        crc = zlib.crc32(f"{name} {array.dtype.name} {array.shape}".encode(), crc)
        crc = zlib.crc32(array.data, crc)
    return f"{crc:08x}"


def _create(temporary: str, target: str) -> int:
    """Create the temporary file; return the permissions that the finished one gets."""
    exists = os.path.exists(target)
    if exists and not os.path.isfile(target):
        raise OSError("it is no regular file")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    os.close(os.open(temporary, flags, 0o600 if exists else 0o666))  # 0666 less the umask
    return stat.S_IMODE(os.stat(target if exists else temporary).st_mode)


def _metadata(strings: Mapping[str, str], kind: str) -> dict[str, Any]:
    """Return the metadata of a file of this format, version and kind."""
    try:
        metadata = json.loads(strings.get(FORMAT, "null"))
    except (ValueError, RecursionError) as error:
        raise ValueError("its metadata is no JSON") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ValueError("fffnb did not write it")
    if metadata.get("version") != VERSION:
        raise ValueError(
            f"it has version {metadata.get('version')!r}, this fffnb reads version {VERSION}"
        )
    if metadata.get("kind") != kind:
        raise ValueError(f"it is of kind {metadata.get('kind')!r}")
    return metadata


def _array(file: Any, name: str) -> NDArray[Any]:
    """Return one array of an open file; safetensors has checked that its bytes are there."""
    dtype = file.get_slice(name).get_dtype()
    if dtype not in DTYPES:
        raise ValueError(f"array {name!r} has dtype {dtype}, expected {', '.join(DTYPES)}")
    array: NDArray[Any] = file.get_tensor(name)
    return array


def _reason(error: BaseException) -> str:
    """Return the words of an error without the errno and the temporary file's name."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
