"""Data: the official formats are read exactly, everything else is refused in words."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fffnb import data
from fffnb.data import DataError, load

DIGITS_TEST = [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]


def idx(array, shape=None):
    """Return the bytes of an IDX file."""
    shape = array.shape if shape is None else shape
    sizes = b"".join(n.to_bytes(4, "big") for n in shape)
    return bytes((0, 0, 8, len(shape))) + sizes + array.tobytes()


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def mnist_arrays():
    return {
        "train-images-idx3-ubyte": pixels(20, 4, 3),
        "train-labels-idx1-ubyte": np.arange(20, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": pixels(5, 4, 3, seed=1),
        "t10k-labels-idx1-ubyte": np.arange(5, dtype=np.uint8)[::-1].copy(),
    }


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def write_mnist(folder, end="", dotted=False):
    for name, array in mnist_arrays().items():
        write(folder / ((name.replace("-idx", ".idx") if dotted else name) + end), idx(array))


def refused(words, *arguments):
    with pytest.raises(DataError) as caught:
        load(*arguments)
    assert words in str(caught.value), str(caught.value)


# Digits


def test_digits():
    dataset = load("digits")
    assert (dataset.name, dataset.n_classes) == ("digits", 10)
    assert dataset.x_train.shape == (1438, 64) and dataset.x_test.shape == (359, 64)
    assert dataset.x_train.dtype == np.float32 and dataset.y_train.dtype == np.int64
    assert dataset.x_train.min() == -1 and dataset.x_train.max() == 1
    assert np.bincount(dataset.y_test).tolist() == DIGITS_TEST
    again = load("digits")
    assert all(np.array_equal(a, b) for a, b in zip(dataset, again, strict=True))


def test_digits_are_all_there_once():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    dataset = load("digits")
    joined = np.concatenate([dataset.x_train, dataset.x_test]) * 8 + 8
    labels = np.concatenate([dataset.y_train, dataset.y_test])
    ours, theirs = np.column_stack([joined, labels]), np.column_stack([x, y])
    ours, theirs = (rows[np.lexsort(rows.T)] for rows in (ours, theirs))
    np.testing.assert_array_equal(ours, theirs)


def test_importing_data_does_not_import_sklearn():
    code = "import sys, fffnb.data; sys.exit(any(m.startswith('sklearn') for m in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(data.__file__).parents[1])


def test_without_sklearn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'fffnb\[train\]'"):
        load("digits")


# MNIST's format


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("dotted", [False, True], ids=["dashed", "dotted"])
@pytest.mark.parametrize("place", ["", "mnist", "MNIST/raw"])
def test_idx_files_under_every_official_name(tmp_path, place, dotted, end):
    write_mnist(tmp_path / place, end, dotted)
    dataset = load("mnist", tmp_path)
    arrays = list(mnist_arrays().values())
    assert (dataset.name, dataset.n_classes) == ("mnist", 10)
    for x, images in ((dataset.x_train, arrays[0]), (dataset.x_test, arrays[2])):
        scaled = (images.reshape(len(images), -1) / 255 - 0.5) / 0.5
        assert x.dtype == np.float32 and x.flags.carray
        np.testing.assert_allclose(x, scaled, rtol=0, atol=1e-7)
    for y, labels in ((dataset.y_train, arrays[1]), (dataset.y_test, arrays[3])):
        assert y.dtype == np.int64
        np.testing.assert_array_equal(y, labels)


def test_pixels_are_rounded_once():
    exact = (2 * np.arange(256.0) - 255) / 255
    scaled = data._scaled(np.arange(256, dtype=np.uint8), 255)
    np.testing.assert_array_equal(scaled, exact.astype(np.float32))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError) as caught:
        load("mnist", tmp_path)
    for words in (
        "train-images-idx3-ubyte or train-images-idx3-ubyte.gz or train-images.idx3-ubyte",
        str(tmp_path),
        os.path.join("MNIST", "raw"),
        "found none of them",
    ):
        assert words in str(caught.value)
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    refused("must hold t10k-labels-idx1-ubyte or t10k", "mnist", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_missing_folder_is_named(tmp_path, name):
    refused(f"{tmp_path / 'none'} must hold ", name, tmp_path / "none")
    refused("found no such folder", name, tmp_path / "none")


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train-images-idx3-ubyte", b"", "got an empty file"),
        ("train-images-idx3-ubyte", b"\0\0\x08", "must begin with the IDX header"),
        ("train-images-idx3-ubyte", b"\0\0\x08\3" + b"\0" * 11, "must begin with the IDX header"),
        ("train-images-idx3-ubyte", idx(pixels(20)), "of uint8 data of 3 dimensions"),
        ("train-labels-idx1-ubyte", idx(pixels(20, 2, 2)), "of uint8 data of 1 dimensions"),
        ("train-labels-idx1-ubyte", b"\0\0\x0d\1" + b"\0\0\0\1" * 2, "got 00000d01 00000001"),
        ("train-images-idx3-ubyte", b"\x89PNG" * 9, "got 89504e47"),
        ("train-images-idx3-ubyte", idx(pixels(20, 4, 3))[:-1], "240 bytes of data, got fewer"),
        ("train-images-idx3-ubyte", idx(pixels(20, 4, 3)) + b"\0", "240 bytes of data, got more"),
        ("t10k-labels-idx1-ubyte", idx(pixels(5)) + b"\0", "5 bytes of data, got more"),
        ("train-images-idx3-ubyte", idx(pixels(0, 4, 3)), "must hold data, got shape (0, 4, 3)"),
        ("train-images-idx3-ubyte", idx(pixels(20, 0, 3)), "must hold data, got shape (20, 0, 3)"),
        ("train-images-idx3-ubyte", idx(pixels(9), (2**32 - 1,) * 3), "got fewer"),
        ("train-images-idx3-ubyte", idx(pixels(9), (2**31, 1, 1)), "2,147,483,648 bytes of data"),
        ("train-labels-idx1-ubyte", idx(pixels(19)), "must hold 20 integers, one per example"),
        ("train-labels-idx1-ubyte", idx(np.arange(20, dtype="u1")), "labels 0 to 9 (10 classes)"),
        ("train-labels-idx1-ubyte", idx(np.arange(20, dtype="u1")), "got 10"),
        ("t10k-labels-idx1-ubyte", idx(np.full(5, 255, "u1")), "got 255"),
        ("t10k-images-idx3-ubyte", idx(pixels(5, 4, 4)), "must have 12 features"),
    ],
)
def test_damaged_idx_files(tmp_path, name, content, words, end):
    write_mnist(tmp_path, end)
    write(tmp_path / (name + end), content)
    refused(words, "mnist", tmp_path)
    if "features" not in words:
        refused(str(tmp_path / (name + end)), "mnist", tmp_path)


def test_every_truncation_of_a_gzipped_file_is_refused(tmp_path):
    write_mnist(tmp_path, ".gz")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    content = path.read_bytes()
    for n in range(0, len(content), 3):
        path.write_bytes(content[:n])
        refused(str(path), "mnist", tmp_path)
    path.write_bytes(content + b"rubbish")
    refused(str(path), "mnist", tmp_path)


def test_flipped_bytes_of_a_gzipped_file_are_refused_or_harmless(tmp_path):
    write_mnist(tmp_path, ".gz")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    content, expected = path.read_bytes(), load("mnist", tmp_path).x_train
    for n in range(len(content)):
        path.write_bytes(content[:n] + bytes([content[n] ^ 0xFF]) + content[n + 1 :])
        try:
            x = load("mnist", tmp_path).x_train
        except DataError as error:
            assert str(path) in str(error)
        else:  # the time stamp, or a checksum that nobody changed
            np.testing.assert_array_equal(x, expected)


def test_a_bomb_is_read_no_further_than_its_header_says(tmp_path, monkeypatch):
    write_mnist(tmp_path, ".gz")
    bomb = idx(pixels(20, 4, 3)) + bytes(50_000_000)
    write(tmp_path / "train-images-idx3-ubyte.gz", bomb)
    asked = []
    read = gzip.GzipFile.read

    def counted(self, size=-1):
        asked.append(size)
        return read(self, size)

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    refused("240 bytes of data, got more", "mnist", tmp_path)
    assert asked == [16, 241]


def test_a_header_that_no_gzip_file_can_fulfil_allocates_nothing(tmp_path):
    write_mnist(tmp_path, ".gz")
    write(tmp_path / "train-images-idx3-ubyte.gz", idx(pixels(9), (2**15, 2**15, 2**15)))
    refused("35,184,372,088,832 bytes of data, got fewer", "mnist", tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_file(tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte"
    path.unlink()
    os.mkfifo(path)
    refused("found none of them", "mnist", tmp_path)


# CIFAR-10's format

CIFAR_NAMES = [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CIFAR_RECORDS", 3)
    folder = tmp_path / "cifar-10-batches-bin"
    for k, name in enumerate(CIFAR_NAMES):
        records = pixels(3, 3073, seed=k)
        records[:, 0] = (np.arange(3) + k) % 10
        write(folder / name, records.tobytes())
    return folder


@pytest.mark.parametrize("place", ["folder", "above"])
def test_cifar10(cifar, place):
    dataset = load("cifar10", cifar if place == "folder" else cifar.parent)
    assert (dataset.name, dataset.n_classes) == ("cifar10", 10)
    assert dataset.x_train.shape == (15, 3072) and dataset.x_test.shape == (3, 3072)
    assert dataset.y_train.tolist() == [0, 1, 2, 1, 2, 3, 2, 3, 4, 3, 4, 5, 4, 5, 6]
    assert dataset.y_test.tolist() == [5, 6, 7]
    for x, seeds in ((dataset.x_train, range(5)), (dataset.x_test, [5])):
        raw = np.concatenate([pixels(3, 3073, seed=seed)[:, 1:] for seed in seeds])
        assert x.dtype == np.float32 and x.flags.carray
        np.testing.assert_allclose(x, (raw / 255 - 0.5) / 0.5, rtol=0, atol=1e-7)


@pytest.mark.parametrize("change", [-3073, -1, 1, 3073])
@pytest.mark.parametrize("name", ["data_batch_4.bin", "test_batch.bin"])
def test_cifar10_of_another_size(cifar, name, change):
    path = cifar / name
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + bytes(change))
    came = "fewer" if change < 0 else "more"
    refused(f"{path} must hold 9,219 bytes of data, got {came}", "cifar10", cifar)


def test_cifar10_with_a_label_out_of_range(cifar):
    path = cifar / "data_batch_2.bin"
    content = bytearray(path.read_bytes())
    content[3073] = 10
    path.write_bytes(content)
    refused(f"{path} must hold labels 0 to 9 (10 classes), got 10", "cifar10", cifar)


def test_cifar10_without_a_batch(cifar):
    (cifar / "data_batch_5.bin").unlink()
    refused(f"{cifar} must hold data_batch_5.bin", "cifar10", cifar)


def test_cifar10_counts_the_official_records():
    assert data.CIFAR_RECORDS * data.CIFAR_BYTES == 30_730_000


# The user's own arrays


def own(n=30, n_classes=3):
    rng = np.random.default_rng(0)
    return {"x": rng.standard_normal((n, 2, 5)), "y": np.arange(n) % n_classes}


@pytest.fixture
def npz(tmp_path):
    def save(**arrays):
        path = tmp_path / "own.NPZ"
        with path.open("wb") as file:
            np.savez(file, **arrays)
        return path

    return save


@pytest.mark.parametrize("kind", [np.float16, np.float64, ">f4", np.uint8, np.int64, np.bool_])
def test_npz_with_test_arrays(npz, kind):
    x = np.asfortranarray((own()["x"] * 3 + 9).astype(kind))
    y = own()["y"].astype(np.uint8)
    dataset = load(npz(x=x, y=y, x_test=x[:4], y_test=y[:4], other=np.zeros(3)))
    assert (dataset.name, dataset.n_classes) == ("own", 3)
    assert dataset.x_train.dtype == np.float32 and dataset.x_train.flags.carray
    np.testing.assert_array_equal(dataset.x_train, x.reshape(30, 10).astype(np.float32))
    np.testing.assert_array_equal(dataset.y_train, y)
    np.testing.assert_array_equal(dataset.x_test, dataset.x_train[:4])
    assert dataset.y_test.tolist() == [0, 1, 2, 0] and dataset.y_test.dtype == np.int64


def test_npz_is_split_by_class(npz):
    counts = [1, 2, 3, 7, 8, 100]
    y = np.random.default_rng(1).permutation(np.repeat(np.arange(6), counts))
    x = np.arange(len(y), dtype=np.float64)[:, None]
    path = npz(x=x, y=y)
    dataset = load(path)
    assert np.bincount(dataset.y_test, minlength=6).tolist() == [0, 0, 1, 1, 2, 20]
    np.testing.assert_array_equal(
        np.sort(np.concatenate([dataset.x_train, dataset.x_test]).ravel()), x.ravel()
    )
    np.testing.assert_array_equal(dataset.y_train, y[dataset.x_train.ravel().astype(int)])
    np.testing.assert_array_equal(dataset.y_test, y[dataset.x_test.ravel().astype(int)])
    again = load(str(path))
    assert all(np.array_equal(a, b) for a, b in zip(dataset, again, strict=True))


def nan_at(value):
    x = own()["x"]
    x[3, 1, 2] = value
    return x


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": np.zeros(30)}, "x must hold real numbers of shape (n, features), got float64 (30,)"),
        ({"x": np.array(3.0)}, "got float64 ()"),
        ({"x": np.zeros((0, 5)), "y": np.zeros(0, int)}, "got float64 (0, 5)"),
        ({"x": np.zeros((30, 0))}, "got float64 (30, 0)"),
        ({"x": np.zeros((30, 2), complex)}, "got complex128"),
        ({"x": np.zeros((30, 2), "U3")}, "got <U3"),
        ({"x": np.zeros((30, 2), "M8[s]")}, "got datetime64[s]"),
        ({"x": np.zeros((30, 2), [("a", "f4")])}, "real numbers"),
        ({"x": np.zeros((30, 2), object)}, "Object arrays cannot be loaded"),
        ({"y": np.zeros(30, object)}, "Object arrays cannot be loaded"),
        ({"x": nan_at(np.nan)}, "x must be finite in float32, got nan"),
        ({"x": nan_at(-np.inf)}, "x must be finite in float32, got -inf"),
        ({"x": nan_at(1e300)}, "x must be finite in float32, got 1e+300"),
        ({"y": np.zeros(29, int)}, "y must hold 30 integers, one per example, got int64 (29,)"),
        ({"y": np.zeros((30, 1), int)}, "got int64 (30, 1)"),
        ({"y": np.zeros(30)}, "got float64 (30,)"),
        ({"y": np.zeros(30, bool)}, "got bool (30,)"),
        ({"y": np.arange(30) % 3 + 1}, "y must hold labels 0 to 2 (3 classes), got 3"),
        ({"y": np.arange(30) % 3 - 1}, "y must hold labels 0 to 2 (3 classes), got -1"),
        ({"y": np.arange(30) % 2 * 2**62}, "(2 classes), got 4611686018427387904"),
        ({"y": np.full(30, 2**64 - 1, np.uint64)}, "(1 classes), got 18446744073709551615"),
        ({"x": np.zeros((2, 2)), "y": np.zeros(2, int)}, "must hold 3 examples of some class"),
        ({"x_test": np.zeros((3, 10))}, "must hold x and y, or x, y, x_test and y_test, got x, y"),
        ({"x_test": np.zeros((3, 9)), "y_test": np.zeros(3, int)}, "must have 10 features"),
        ({"x_test": np.zeros((3, 10)), "y_test": np.zeros(2, int)}, "y_test must hold 3 integers"),
        ({"x_test": np.zeros((3, 10)), "y_test": np.full(3, 3)}, "y_test must hold labels 0 to 2"),
        ({"x_test": np.full((3, 10), np.nan), "y_test": np.zeros(3, int)}, "x_test must be finite"),
    ],
)
def test_npz_with_wrong_arrays(npz, changes, words):
    path = npz(**{**own(), **changes})
    refused(words, path)
    refused(str(path), path)


@pytest.mark.parametrize("missing", ["x", "y"])
def test_npz_without_an_array(npz, missing):
    arrays = own()
    kept = next(name for name in arrays if name != missing)
    refused(f"must hold x and y, or x, y, x_test and y_test, got {kept}", npz(z=0, **{kept: 1}))


class Trap:
    """What a pickle must never be allowed to do."""

    sprung = False

    def __reduce__(self):
        return (setattr, (Trap, "sprung", True))


def test_a_pickle_is_never_opened(tmp_path, npz):
    path = tmp_path / "trap.npz"
    path.write_bytes(pickle.dumps(Trap()))
    refused("must be an .npz file", path)
    trap = np.array([[Trap()]], object)
    refused("Object arrays cannot be loaded", npz(**{**own(), "x": trap}))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", pickle.dumps(Trap()))
        archive.writestr("y.npy", pickle.dumps(Trap()))
    refused("x must hold real numbers", path)
    assert not Trap.sprung


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", b"\x93NUMPY\x01\0"])
def test_npz_of_another_format(tmp_path, content):
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    refused("must be an .npz file, a zip of arrays x and y, got something else", path)


def test_a_npy_under_the_name_of_an_npz(tmp_path):
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros((3, 2)))
    refused("got something else", tmp_path / "array.npz")


def test_a_missing_npz(tmp_path):
    refused("got no such file", tmp_path / "none.npz")
    (tmp_path / "folder.npz").mkdir()
    refused("got something else", tmp_path / "folder.npz")


@pytest.mark.parametrize("shape", [(2**62,), (2**40, 2**40), (-1, 2), (2**44, 2), (10**30, 2)])
def test_npz_with_a_hostile_shape(tmp_path, shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    npy = b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header + bytes(80)
    path = tmp_path / "hostile.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", npy)
        archive.writestr("y.npy", npy)
    refused(str(path), path)


@pytest.mark.parametrize("compress", [False, True])
def test_damaged_npz_files(tmp_path, compress):
    buffer = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(buffer, **own())
    content, path = buffer.getvalue(), tmp_path / "own.npz"
    path.write_bytes(content)
    expected = load(path)
    for n in range(0, len(content), 23):
        path.write_bytes(content[:n])
        refused(str(path), path)
    for n in range(0, len(content), 5):
        path.write_bytes(content[:n] + bytes([content[n] ^ 0xFF]) + content[n + 1 :])
        try:
            dataset = load(path)
        except DataError as error:
            assert str(path) in str(error)
        else:  # a byte of the zip's bookkeeping, such as a time stamp
            assert all(np.array_equal(a, b) for a, b in zip(dataset, expected, strict=True))


# What a caller must not ask


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("letters",), "name must be 'digits', 'mnist', 'cifar10' or a path to an .npz, got 'lett"),
        (("",), "got ''"),
        (("mnist",), "folder must name the folder with the files of 'mnist', got None"),
        (("cifar10",), "folder must name the folder with the files of 'cifar10', got None"),
        (("digits", "here"), "folder must be None for 'digits', got 'here'"),
        (("own.npz", "here"), "folder must be None for 'own.npz', got 'here'"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(ValueError) as caught:
        load(*arguments)
    assert words in str(caught.value) and not isinstance(caught.value, DataError)


# Real data, where a folder of it is at hand


def real(name):
    folder = os.environ.get("FFFNB_DATA")
    if not folder:
        pytest.skip("FFFNB_DATA names no folder of data sets")
    try:
        return load(name, folder)
    except DataError as error:
        if "must hold" in str(error) and "found n" in str(error):
            pytest.skip(str(error))
        raise


def test_real_mnist():
    dataset = real("mnist")
    assert dataset.x_train.shape == (60_000, 784) and dataset.x_test.shape == (10_000, 784)
    assert dataset.y_train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert dataset.y_test[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    levels = (dataset.x_train.astype(np.float64) + 1) / 2
    np.testing.assert_allclose([levels.mean(), levels.std()], [0.1307, 0.3081], atol=5e-5)


def test_real_cifar10():
    dataset = real("cifar10")
    assert dataset.x_train.shape == (50_000, 3072) and dataset.x_test.shape == (10_000, 3072)
    assert dataset.y_train[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert dataset.y_test[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    levels = (dataset.x_train.reshape(-1, 3, 1024).mean(axis=(0, 2), dtype=np.float64) + 1) / 2
    np.testing.assert_allclose(levels, [0.4914, 0.4822, 0.4465], atol=5e-4)
