"""Files: every array comes back, no failure costs the old file, no damage passes."""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from fffnb import files
from fffnb.files import FileError, read_arrays, replacing, write_arrays

st = pytest.importorskip("safetensors.numpy")

posix = pytest.mark.skipif(os.name != "posix", reason="permissions and links of POSIX")
METADATA = {"kind": "model", "layers": [{"n_in": 3}], "loss": float("inf"), "é": "\ud800"}


def small(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "0.nodes": rng.standard_normal((1, 3, 2)).astype(np.float32),
        "steps": np.arange(3),
        "empty": np.zeros((0, 4)),
    }


def same(arrays, expected):
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        assert array.dtype.isnative and array.flags.carray  # C-contiguous, aligned, writeable
        native = expected[name].astype(expected[name].dtype.newbyteorder("="))
        np.testing.assert_array_equal(array, native, strict=True)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.fixture
def written(path):
    write_arrays(path, small(), {"kind": "model"})
    return path


# What is written comes back


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "i8", "u1", ">f4", ">f8", ">i8"])
def test_round_trip_of_every_dtype_and_shape(path, dtype):
    whole = np.random.default_rng(0).integers(0, 256, (6, 8)).astype(dtype)
    arrays = {
        "whole": whole,
        "scalar": whole[0, 0, None].reshape(()),
        "transposed": whole.T,
        "strided": whole[::-2, 1::3],
        "none": whole[:0],
        "a 'name' of \N{SNOWMAN} \n": whole[:1],
    }
    arrays["whole"].flags.writeable = False
    write_arrays(path, arrays, METADATA)
    same(read_arrays(path, kind="model")[0], arrays)


def test_metadata_comes_back_with_format_and_version(path):
    write_arrays(str(path), {}, METADATA)
    arrays, metadata = read_arrays(str(path), kind="model")
    assert arrays == {}
    assert metadata == {**METADATA, "format": "fffnb", "version": 1}


def test_arrays_of_a_file_outlive_its_replacement(written):
    arrays, _ = read_arrays(written, kind="model")
    write_arrays(written, small(1), {"kind": "model"})
    same(arrays, small())
    write_arrays(written, arrays, {"kind": "model"})
    same(read_arrays(written, kind="model")[0], small())


def test_other_readers_of_safetensors_see_the_arrays(written):
    same(st.load_file(written), small())


# A failed save leaves the old file


def fail_in(monkeypatch, step, error):
    def fail(*args, **kwargs):
        if step == "write half":
            Path(args[1]).write_bytes(b"half a file")
        raise error

    target = {"write": (st, "save_file"), "write half": (st, "save_file")}
    owner, name = target.get(step, (os, step))
    monkeypatch.setattr(owner, name, fail)


@pytest.mark.parametrize("step", ["write", "write half", "fsync", "chmod", "replace", "open"])
@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt(), MemoryError()],
    ids=["disk full", "Ctrl-C", "memory"],
)
def test_a_failed_save_leaves_the_old_file(monkeypatch, path, step, existing, error):
    if existing:
        write_arrays(path, small(), {"kind": "model"})
    with monkeypatch.context() as patch:
        fail_in(patch, step, error)
        with pytest.raises(FileError if isinstance(error, OSError) else type(error)) as caught:
            write_arrays(path, small(1), {"kind": "model"})
    if isinstance(error, OSError):
        assert str(caught.value) == f"{path} cannot be written: {os.strerror(errno.ENOSPC)}"
    assert os.listdir(path.parent) == ([path.name] if existing else [])
    if existing:
        same(read_arrays(path, kind="model")[0], small())


@posix
def test_a_full_disk_leaves_the_old_file(written):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(FileError, match="cannot be written"):
            write_arrays(written, {"large": np.zeros(10**5)}, {"kind": "model"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(written.parent) == [written.name]
    same(read_arrays(written, kind="model")[0], small())


@posix
def test_a_reader_sees_the_old_or_the_new_file(written):
    def write():
        for seed in range(15):
            write_arrays(written, small(seed), {"kind": "model", "seed": seed})

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        arrays, metadata = read_arrays(written, kind="model")
        same(arrays, small(metadata.get("seed", 0)))
    writer.join()
    assert os.listdir(written.parent) == [written.name]


@pytest.mark.parametrize("error", [OSError("disk full"), RuntimeError(), KeyboardInterrupt()])
def test_replacing_leaves_the_old_file_after_an_error_in_the_block(path, error):
    path.write_text("old")
    expected = FileError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected), replacing(path) as temporary:
        Path(temporary).write_text("half")
        raise error
    assert os.listdir(path.parent) == [path.name] and path.read_text() == "old"


def test_replacing_shows_the_new_file_at_the_end(path):
    path.write_text("old")
    with replacing(path) as temporary:
        Path(temporary).write_text("new")
        assert path.read_text() == "old"
    assert os.listdir(path.parent) == [path.name] and path.read_text() == "new"


# Where a file is written


@posix
@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_a_new_file_has_the_permissions_of_the_umask(path, mask):
    old = os.umask(mask)
    try:
        write_arrays(path, small(), {"kind": "model"})
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444])
def test_a_replaced_file_keeps_its_permissions(written, mode):
    written.chmod(mode)
    write_arrays(written, small(1), {"kind": "model"})
    assert stat.S_IMODE(written.stat().st_mode) == mode
    same(read_arrays(written, kind="model")[0], small(1))


@posix
@pytest.mark.parametrize("dangling", [False, True])
def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path, dangling):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target", tmp_path / "link"
    link.symlink_to(Path("far", "target"))
    if not dangling:
        write_arrays(target, small(), {"kind": "model"})
    write_arrays(link, small(1), {"kind": "model"})
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["far", "link"]
    assert os.listdir(tmp_path / "far") == ["target"]
    same(read_arrays(target, kind="model")[0], small(1))


@posix
def test_a_link_to_itself_is_refused(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(FileError, match="cannot be written"):
        write_arrays(loop / "x", small(), {"kind": "model"})
    with pytest.raises(FileError, match="no readable model"):
        read_arrays(loop, kind="model")


def test_a_path_relative_to_the_working_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write_arrays("model", small(), {"kind": "model"})
    same(read_arrays("model", kind="model")[0], small())
    assert os.listdir() == ["model"]


def test_a_long_name(tmp_path):
    path = tmp_path / ("n" * 250)
    write_arrays(path, small(), {"kind": "model"})
    same(read_arrays(path, kind="model")[0], small())


def test_a_missing_folder_is_named(tmp_path):
    path = tmp_path / "missing" / "model"
    with pytest.raises(FileError) as caught:
        write_arrays(path, small(), {"kind": "model"})
    assert str(caught.value) == f"{path} cannot be written: {os.strerror(errno.ENOENT)}"


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root writes anywhere")
def test_an_unwritable_folder_is_named(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(FileError, match="Permission denied") as caught:
            write_arrays(tmp_path / "model", small(), {"kind": "model"})
    finally:
        tmp_path.chmod(0o755)
    assert str(tmp_path / "model") in str(caught.value)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(FileError, match="cannot be written: it is no regular file"):
        write_arrays(tmp_path, small(), {"kind": "model"})
    with pytest.raises(FileError, match="no readable model: it is no regular file"):
        read_arrays(tmp_path, kind="model")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_neither_read_nor_replaced(path):
    os.mkfifo(path)
    with pytest.raises(FileError, match="no regular file"):
        write_arrays(path, small(), {"kind": "model"})
    with pytest.raises(FileError, match="no regular file"):
        read_arrays(path, kind="model")
    assert stat.S_ISFIFO(path.stat().st_mode) and os.listdir(path.parent) == [path.name]


# What a caller must not ask


@pytest.mark.parametrize(
    ("arrays", "metadata", "error", "words"),
    [
        ({"a": [1.0]}, {"kind": "model"}, TypeError, "arrays['a'] must be a numpy.ndarray, got l"),
        ({"a": np.zeros(2, np.float16)}, {"kind": "model"}, TypeError, "got float16"),
        ({"a": np.zeros(2, object)}, {"kind": "model"}, TypeError, "got object"),
        ({"a": np.zeros(2, complex)}, {"kind": "model"}, TypeError, "got complex128"),
        ({"__metadata__": np.zeros(2)}, {"kind": "model"}, ValueError, "'__metadata__'"),
        ({}, {}, ValueError, "metadata must have a str 'kind', got None"),
        ({}, {"kind": 3}, ValueError, "metadata must have a str 'kind', got 3"),
        ({}, {"kind": "model", "x": object()}, TypeError, "JSON"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(written, arrays, metadata, error, words):
    with pytest.raises(error) as caught:
        write_arrays(written, arrays, metadata)
    assert words in str(caught.value) and not isinstance(caught.value, FileError)
    assert os.listdir(written.parent) == [written.name]
    same(read_arrays(written, kind="model")[0], small())


def test_without_safetensors_the_extra_is_named(monkeypatch, written):
    for name in [name for name in sys.modules if name.split(".")[0] == "safetensors"]:
        monkeypatch.setitem(sys.modules, name, None)
    for call in (
        lambda: read_arrays(written, kind="model"),
        lambda: write_arrays(written, {}, {"kind": "model"}),
    ):
        with pytest.raises(ImportError, match=r"pip install 'fffnb\[train\]'"):
            call()


# What a reader refuses


def refused(path, words=""):
    with pytest.raises(FileError) as caught:
        read_arrays(path, kind="model")
    assert str(caught.value).startswith(f"{path} is no readable model: ")
    assert words in str(caught.value)


def header(path, entries, data=b"", length=None):
    text = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def test_a_missing_file(path):
    refused(path, "No such file")


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ("{", "its metadata is no JSON"),
        ("[" * 100_000, "its metadata is no JSON"),
        ('{"version": ' + "1" * 10_000 + "}", "its metadata is no JSON"),
        ("[]", "fffnb did not write it"),
        ("null", "fffnb did not write it"),
        ("{}", "fffnb did not write it"),
        ('{"format": "other", "version": 1, "kind": "model"}', "fffnb did not write it"),
        ('{"format": "fffnb", "version": 2, "kind": "model"}', "it has version 2, this"),
        ('{"format": "fffnb", "kind": "model"}', "it has version None, this"),
        ('{"format": "fffnb", "version": 1}', "it is of kind None"),
        ('{"format": "fffnb", "version": 1, "kind": "model"}', "it is damaged"),
    ],
)
def test_foreign_metadata(path, metadata, words):
    st.save_file(small(), path, {"fffnb": metadata})
    refused(path, words)


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_a_foreign_safetensors_file(path, metadata):
    st.save_file(small(), path, metadata)
    refused(path, "fffnb did not write it")


@pytest.mark.parametrize("content", [b"", b"\0", b"PK\x03\x04", b"\x93NUMPY\x01\0", b"{}" * 500])
def test_a_file_of_another_format(path, content):
    path.write_bytes(content)
    refused(path)


def test_another_kind(path):
    write_arrays(path, small(), {"kind": "checkpoint"})
    refused(path, "it is of kind 'checkpoint'")


def huge(shape, end=0, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}


@pytest.mark.parametrize(
    "array",
    [
        huge([2**40], 2**42),
        huge([2**62, 4], 2**64 - 1),
        huge([2**40], 0),
        huge([2**62, 0]),
        huge([2**63, 0]),
        huge([2**64 - 1, 0]),
        huge([2**64, 0]),
        huge([0] * 70),
        huge([-1], 0),
        huge([1], 4, "BF16"),
        huge([2], 4, "BF16"),
        huge([4], 4, "F8_E4M3"),
        huge([4], 4, "BOOL"),
        huge([4], 4, "I8"),
        huge([1], 4, "OBJECT"),
        huge([1], 4, 7),
        huge("1", 4),
        {},
        None,
    ],
)
def test_hostile_arrays(path, array):
    metadata = {"fffnb": json.dumps({"format": "fffnb", "version": 1, "kind": "model"})}
    end = 4 if array and array["data_offsets"][1] == 4 else 0
    header(path, {"__metadata__": metadata, "a": array}, b"\0" * end)
    refused(path)


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 2**40, 10**8 - 1, 3, 0])
def test_hostile_header_lengths(path, length):
    header(path, {}, length=length)
    refused(path)


def attempt(path, content, expected):
    path.write_bytes(content)
    try:
        arrays, metadata = read_arrays(path, kind="model")
    except FileError as error:
        assert str(path) in str(error)
        return 0
    same(arrays, expected)
    assert metadata == {"kind": "model", "format": "fffnb", "version": 1}
    return 1


def test_every_truncation_is_refused(written):
    content = written.read_bytes()
    assert not any(attempt(written, content[:n], small()) for n in range(len(content)))
    assert not attempt(written, content + b"\0", small())


def test_every_flipped_byte_is_refused_or_harmless(written):
    content = written.read_bytes()
    n_header = 8 + struct.unpack("<Q", content[:8])[0]
    read = 0
    for n, byte in enumerate(content):
        flips = [1, 2, 4, 8, 16, 32, 64, 128, 255] if n < n_header else [1, 128]
        for flip in flips:
            changed = content[:n] + bytes([byte ^ flip]) + content[n + 1 :]
            read += attempt(written, changed, small())
    assert read <= 8  # another white space in the header's padding


def test_random_headers_are_refused(path):
    rng = np.random.default_rng(0)
    write_arrays(path, small(), {"kind": "model"})
    content = bytearray(path.read_bytes())
    for _ in range(500):
        changed = bytearray(content)
        for _ in range(rng.integers(2, 6)):
            n = int(rng.integers(0, len(changed)))
            piece = bytes(rng.choice(list(b'0123456789[]{}",:\\FIU\0\xff'), rng.integers(1, 4)))
            changed[n : n + int(rng.integers(0, 3))] = piece
        attempt(path, bytes(changed), small())


def test_a_swapped_dtype_is_refused_though_its_size_fits(written):
    content = written.read_bytes()
    assert b'"F32"' in content
    written.write_bytes(content.replace(b'"F32"', b'"I32"'))
    refused(written, "damaged")


def test_an_array_beyond_memory_is_refused(monkeypatch, written):
    def exhausted(*args):
        raise MemoryError

    monkeypatch.setattr(files, "_array", exhausted)
    refused(written, "MemoryError")
