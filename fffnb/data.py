"""Image classification data in its official files: digits, MNIST-style IDX, CIFAR-10, and .npz."""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: A file of CIFAR-10's binary version: so many records of a label and 3 planes of 32 x 32 pixels.
CIFAR_RECORDS, CIFAR_BYTES = 10_000, 1 + 3 * 32 * 32

#: No gzip file holds more than this times its own size.
MAX_DEFLATE = 1032

#: Features and labels of the training or the test examples.
Part = tuple[NDArray[np.float32], NDArray[np.int64]]


class DataError(ValueError):
    """A data set that is missing, damaged or not what its format says."""


class Dataset(NamedTuple):
    """A classification data set: float32 features (n, features), int64 labels (n,)."""

    name: str
    x_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int64]
    n_classes: int


def load(name: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None) -> Dataset:
    """Read a data set from its files.

    Parameters
    ----------
    name : {"digits", "mnist", "cifar10"} or path
        "digits": the 1,797 digits of 8 x 8 pixels that scikit-learn bundles.
        "mnist": four IDX files under MNIST's official names, raw or gzipped; Fashion-MNIST and
        KMNIST, which use the same names, too. "cifar10": the official binary version.
        A path that ends in ``.npz``: arrays x (n, ...) and y (n,), perhaps x_test and y_test.
    folder : path, optional
        Where the files of "mnist" and "cifar10" lie, or the folder that holds their usual
        subfolder.

    Returns
    -------
    Dataset
        float32 features, one flat row per example, and int64 labels 0 ... n_classes - 1. Pixels
        are scaled to [-1, 1], the values of an .npz are left as they are. Without test files, a
        fixed fifth of every class is set aside for testing.

    Raises
    ------
    DataError
        If files are missing, truncated or not of their format, or hold labels or values that no
        classifier can learn from; names the file and what was expected.
    ValueError
        If `name` is unknown or `folder` does not go with it.
    ImportError
        If scikit-learn is not installed ("digits" only).

    Examples
    --------
    >>> import fffnb.data
    >>> digits = fffnb.data.load("digits")
    >>> digits.x_train.shape, digits.x_test.shape, digits.n_classes
    ((1438, 64), (359, 64), 10)
    """
    text = os.fsdecode(name)
    if text not in ("mnist", "cifar10"):
        if text != "digits" and not text.lower().endswith(".npz"):
            raise ValueError(
                f"name must be 'digits', 'mnist', 'cifar10' or a path to an .npz, got {text!r}"
            )
        if folder is not None:
            raise ValueError(f"folder must be None for {text!r}, got {os.fspath(folder)!r}")
        return _digits() if text == "digits" else _npz(text)
    if folder is None:
        raise ValueError(f"folder must name the folder with the files of {text!r}, got None")
    return (_mnist if text == "mnist" else _cifar10)(os.fspath(folder))


def _digits() -> Dataset:
    """Read and split the digits of scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("digits need scikit-learn: pip install 'fffnb[train]'") from error
    x, y = load_digits(return_X_y=True)
    return _split("digits", _scaled(x, 16), y.astype(np.int64))


def _mnist(folder: str) -> Dataset:
    """Read the four IDX files of MNIST, or of a data set that uses MNIST's names."""
    return _joined("mnist", folder, _idx_pair(folder, "train"), _idx_pair(folder, "t10k"), 10)


def _idx_pair(folder: str, stem: str) -> Part:
    """Read the images and the labels of one part of MNIST."""
    places, ends = ("", "mnist", "MNIST", os.path.join("MNIST", "raw")), ("", ".gz")
    x_path, y_path = (
        _find(folder, places, [f"{stem}-{kind}-ubyte{end}" for kind in kinds for end in ends])
        for kinds in (("images-idx3", "images.idx3"), ("labels-idx1", "labels.idx1"))
    )
    images = _idx(x_path, 3)
    labels = _labels(y_path, _idx(y_path, 1), len(images), 10)
    return _scaled(images.reshape(len(images), -1), 255), labels


def _cifar10(folder: str) -> Dataset:
    """Read the six files of CIFAR-10's binary version."""
    train = _cifar_part(folder, [f"data_batch_{k}.bin" for k in range(1, 6)])
    return _joined("cifar10", folder, train, _cifar_part(folder, ["test_batch.bin"]), 10)


def _cifar_part(folder: str, names: Sequence[str]) -> Part:
    """Read and join some files of CIFAR-10."""
    pixels, labels = [], []
    for name in names:
        path = _find(folder, ("", "cifar-10-batches-bin"), [name])
        with _opened(path) as file:
            batch = _exactly(file, path, CIFAR_RECORDS * CIFAR_BYTES).reshape(-1, CIFAR_BYTES)
        pixels.append(batch[:, 1:])
        labels.append(_labels(path, batch[:, 0], CIFAR_RECORDS, 10))
    return _scaled(np.concatenate(pixels), 255), np.concatenate(labels)


def _npz(path: str) -> Dataset:
    """Read the arrays x and y, and x_test and y_test or else a split."""
    if not zipfile.is_zipfile(path):
        came = "something else" if os.path.exists(path) else "no such file"
        raise DataError(f"{path} must be an .npz file, a zip of arrays x and y, got {came}")
    wanted = ("x", "y", "x_test", "y_test")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: np.asarray(archive[key]) for key in wanted if key in archive.files}
    except Exception as error:  # numpy, zipfile and zlib raise a dozen types on damaged files
        raise DataError(f"{path} cannot be read as an .npz of plain arrays: {error}") from error
    if tuple(arrays) not in (wanted[:2], wanted):
        raise DataError(
            f"{path} must hold x and y, or x, y, x_test and y_test, got {', '.join(arrays)}"
        )
    name = os.path.splitext(os.path.basename(path))[0]
    x = _features(f"{path}: x", arrays["x"])
    y = _labels(f"{path}: y", arrays["y"], len(x))
    n_classes = int(y.max()) + 1
    if len(arrays) == 4:
        x_test = _features(f"{path}: x_test", arrays["x_test"])
        y_test = _labels(f"{path}: y_test", arrays["y_test"], len(x_test), n_classes)
        return _joined(name, path, (x, y), (x_test, y_test), n_classes)
    if np.bincount(y).max() < 3:
        raise DataError(f"{path} must hold 3 examples of some class, to keep one for testing")
    return _split(name, x, y)


def _find(folder: str, places: Sequence[str], names: Sequence[str]) -> str:
    """Return the first of these files that exists in the folder or in its usual subfolders."""
    for place in places:
        for name in names:
            path = os.path.join(folder, place, name)
            if os.path.isfile(path):
                return path
    found = "none of them" if os.path.isdir(folder) else "no such folder"
    raise DataError(
        f"{folder} must hold {' or '.join(names)}, itself or in a subfolder "
        f"{' or '.join(places[1:])}, found {found}"
    )


@contextlib.contextmanager
def _opened(path: str) -> Iterator[io.BufferedIOBase]:
    """Open a file, gzipped or not; name it in the error if it cannot be read."""
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            yield file
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        raise DataError(f"{path} cannot be read: {error or type(error).__name__}") from error


def _exactly(file: io.BufferedIOBase, path: str, count: int) -> NDArray[np.uint8]:
    """Return the `count` bytes that end the file; read no more than one beyond them."""
    most = os.path.getsize(path) * (MAX_DEFLATE if path.endswith(".gz") else 1)
    data = file.read(count + 1) if count <= most else b""
    if len(data) != count:
        came = "more" if len(data) > count else "fewer"
        raise DataError(f"{path} must hold {count:,} bytes of data, got {came}")
    return np.frombuffer(data, np.uint8)


def _idx(path: str, ndim: int) -> NDArray[np.uint8]:
    """Read an IDX file: bytes 0, 0, 8 (uint8), ndim, then big-endian sizes, then the data."""
    with _opened(path) as file:
        header = file.read(4 + 4 * ndim)
        if len(header) < 4 + 4 * ndim or header[:4] != bytes((0, 0, 8, ndim)):
            raise DataError(
                f"{path} must begin with the IDX header of uint8 data of {ndim} dimensions, "
                f"got {header.hex(' ', 4) or 'an empty file'}"
            )
        shape = tuple(int.from_bytes(header[k : k + 4], "big") for k in range(4, len(header), 4))
        if 0 in shape:
            raise DataError(f"{path} must hold data, got shape {shape}")
        return _exactly(file, path, math.prod(shape)).reshape(shape)


def _scaled(pixels: NDArray[Any], top: int) -> NDArray[np.float32]:
    """Map pixels 0 ... top to -1 ... 1, rounding once."""
    x = pixels.astype(np.float32)
    x *= 2
    x -= top
    x /= top
    return x


def _features(where: str, x: NDArray[Any]) -> NDArray[np.float32]:
    """Return finite float32 rows, one per example."""
    if x.ndim < 2 or x.size == 0 or x.dtype.kind not in "fiub":
        raise DataError(
            f"{where} must hold real numbers of shape (n, features), got {x.dtype} {x.shape}"
        )
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(x.reshape(len(x), -1), np.float32)
    finite = np.isfinite(rows)
    if not finite.all():
        raise DataError(f"{where} must be finite in float32, got {x.ravel()[finite.argmin()]}")
    return rows


def _labels(where: str, y: NDArray[Any], n: int, n_classes: int | None = None) -> NDArray[np.int64]:
    """Return n labels 0 ... n_classes - 1, by default as many classes as there are labels."""
    if y.dtype.kind not in "iu" or y.shape != (n,):
        raise DataError(f"{where} must hold {n} integers, one per example, got {y.dtype} {y.shape}")
    n_classes = n_classes or len(np.unique(y))
    wrong = y[(y < 0) | (y >= n_classes)]
    if wrong.size:
        raise DataError(
            f"{where} must hold labels 0 to {n_classes - 1} ({n_classes} classes), got {wrong[0]}"
        )
    return y.astype(np.int64)


def _joined(name: str, where: str, train: Part, test: Part, n_classes: int) -> Dataset:
    """Join a training and a test part, which must have the same features."""
    expected, came = train[0].shape[1], test[0].shape[1]
    if came != expected:
        raise DataError(
            f"{where}: the test examples must have {expected} features as the training examples "
            f"have, got {came}"
        )
    return Dataset(name, *train, *test, n_classes)


def _split(name: str, x: NDArray[np.float32], y: NDArray[np.int64]) -> Dataset:
    """Set a fixed fifth of every class aside for testing."""
    order = np.random.default_rng(0).permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]  # class by class, shuffled within
    counts = np.bincount(y)
    place = np.arange(len(y)) - np.repeat(np.cumsum(counts) - counts, counts)
    test = np.zeros(len(y), np.bool_)
    test[order[place < np.repeat((counts + 2) // 5, counts)]] = True
    return Dataset(name, x[~test], y[~test], x[test], y[test], len(counts))
