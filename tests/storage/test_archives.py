"""Archives: what is written comes back; what is damaged, forged or no file at all is refused in one line, and cheaply."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import pickle
import socket
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnn.errors import FileError, FormatError, InputError
from fastnn.storage import archives, atomic

MANIFEST = {"a": [1, 2.5, None, True], "b": {"ü": "ß\n"}}
ARRAYS = {"0.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.arange(3), "x": np.array([1e-300, -0.0])}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    archives.write(tmp_path / "a.safetensors", MANIFEST, ARRAYS)
    return tmp_path / "a.safetensors"


def same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return set(got) == set(expected) and all(
        (got[name].dtype, got[name].shape, got[name].tobytes()) == (value.dtype, value.shape, value.tobytes())
        for name, value in expected.items()
    )


def refused(path: Path) -> str:
    with pytest.raises(FileError) as caught:
        archives.read(path)
    text = str(caught.value)
    assert type(caught.value) is FormatError
    assert text.startswith(str(path))
    assert "\n" not in text
    assert len(text) < 700
    return text


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def put(path: Path, header: dict[str, Any] | str | bytes, data: bytes = b"") -> None:
    """A file with this header and data, whatever they are."""
    if isinstance(header, dict):
        header = json.dumps(header)
    text = header.encode() if isinstance(header, str) else header
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def signed(text: str) -> dict[str, str]:
    return {"fastnn": text, "fastnn.sha256": hashlib.sha256(text.encode()).hexdigest()}


# --- what comes back ----------------------------------------------------------------------------------------------------


def test_what_is_written_comes_back(path: Path) -> None:
    manifest, arrays = archives.read(path)
    assert manifest == MANIFEST
    assert same(arrays, ARRAYS)
    assert archives.read(str(path))[0] == MANIFEST


@pytest.mark.parametrize(
    "array",
    [
        np.array(3.5),
        np.zeros((0,), np.float32),
        np.zeros((3, 0, 2)),
        np.arange(12.0).reshape(3, 4).T,
        np.arange(20, dtype=np.float32)[::3],
        np.arange(5, dtype=">f8"),
        np.array([2**63 - 1, -(2**63)]),
        np.array([np.nan, np.inf, -np.inf], np.float32),
        np.zeros((1,) * 8, np.float32),
        np.broadcast_to(np.float32(1.5), (4, 4)),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_every_array_that_may_be_there(array: np.ndarray, tmp_path: Path) -> None:
    archives.write(tmp_path / "m", {}, {"first": np.float32([1]), "array": array, "last": np.arange(2)})
    got = archives.read(tmp_path / "m")[1]["array"]
    assert got.dtype == array.dtype.newbyteorder("=")
    assert got.shape == array.shape
    assert np.array_equal(got, array, equal_nan=True)
    got[...] = 0  # one may write into it


def test_others_read_the_arrays_too(path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    assert same(load_file(path), ARRAYS)
    metadata = header_of(path)[0]["__metadata__"]
    save_file(load_file(path), path, metadata)  # another writer, another order
    assert archives.read(path)[0] == MANIFEST
    assert same(archives.read(path)[1], ARRAYS)


def test_no_arrays_at_all(tmp_path: Path) -> None:
    archives.write(tmp_path / "m", {"a": 1}, {})
    assert archives.read(tmp_path / "m") == ({"a": 1}, {})


def test_arrays_lie_on_multiples_of_their_size(tmp_path: Path) -> None:
    archives.write(tmp_path / "m", {}, {"f": np.zeros(3, np.float32), "d": np.zeros(3), "i": np.arange(1)})
    header, data = header_of(tmp_path / "m")
    offsets = {name: entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}
    assert {name: offset % 8 for name, offset in offsets.items()} == {"f": 0, "d": 0, "i": 0}
    assert ((tmp_path / "m").stat().st_size - len(data)) % 8 == 0


@pytest.mark.parametrize(
    ("manifest", "arrays", "says"),
    [
        ({"a": np.nan}, {}, "JSON"),
        ({"a": object()}, {}, "JSON"),
        ({"a": {1: 2, "1": 3}}, {}, "twice"),
        ({"a": [0] * 400_000}, {}, "more than 300000"),
        ({"a": "x" * (17 << 20)}, {}, "bytes"),
        ({}, {"a": np.zeros(1, np.float16)}, "float16"),
        ({}, {"a": np.zeros(1, bool)}, "bool"),
        ({}, {"a": np.zeros((1,) * 9)}, "8 axes"),
        ({}, {"a/b": np.zeros(1)}, "'a/b'"),
        ({}, {"a..b": np.zeros(1)}, "name"),
        ({}, {".a": np.zeros(1)}, "name"),
        ({}, {"": np.zeros(1)}, "name"),
        ({}, {"a\n": np.zeros(1)}, "name"),
        ({}, {"a" * 201: np.zeros(1)}, "name"),
        ({}, {f"a{i}": np.zeros(1) for i in range(10_001)}, "10001"),
    ],
)  # fmt: skip
def test_what_no_file_holds_is_refused_at_once(manifest: Any, arrays: Any, says: str, path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(InputError, match=says):
        archives.write(path, manifest, arrays)
    assert path.read_bytes() == before


def test_a_manifest_that_is_nested_deeply_is_refused(path: Path) -> None:
    before = path.read_bytes()
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(InputError):
        archives.write(path, {"a": nested}, {})
    assert path.read_bytes() == before
    while nested:  # freed step by step
        nested = nested.pop()


# --- damage ---------------------------------------------------------------------------------------------------------


def test_cut_at_every_length(path: Path) -> None:
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        refused(path)
    for more in (b"\0", b" ", b"}", content):
        path.write_bytes(content + more)
        assert "bytes" in refused(path)


@pytest.mark.parametrize("bits", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_every_bit_flipped(bits: int, path: Path) -> None:
    """Every day one of each byte, another one of the next."""
    content = bytearray(path.read_bytes())
    for index in range(len(content)):
        for bit in ((index + i) % 8 for i in range(bits)):
            content[index] ^= 1 << bit
            path.write_bytes(content)
            refused(path)
            content[index] ^= 1 << bit
    path.write_bytes(content)
    assert archives.read(path)[0] == MANIFEST


def test_two_arrays_exchanged(tmp_path: Path) -> None:
    path = tmp_path / "m"
    archives.write(path, {}, {"a": np.zeros((2, 3)), "b": np.ones((2, 3))})
    header, data = header_of(path)
    header["a"], header["b"] = header["b"], header["a"]
    put(path, header, data)
    assert "checksum" in refused(path)
    header["a"], header["b"] = header["b"], header["a"]
    header["a"]["shape"] = [3, 2]
    put(path, header, data)
    assert "checksum of a " in refused(path)
    header["a"] |= {"shape": [2, 3], "dtype": "I64"}
    put(path, header, data)
    assert "checksum of a " in refused(path)


# --- forgeries ------------------------------------------------------------------------------------------------------


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F64", "shape": [2], "data_offsets": [0, 16], **changes}


EMPTY = json.dumps({"__metadata__": signed('{"sha256": {}}')})
HEADERS: list[tuple[Any, str]] = [
    ({"a": entry()}, "something else"),
    ({"a": entry(), "__metadata__": {"fastnn": "{}"}}, "checksum of its manifest"),
    ({"a": entry(), "__metadata__": signed("{}")}, "not those of its manifest"),
    ({"a": entry(), "__metadata__": signed('{"sha256": {"b": ""}}')}, "not those of its manifest"),
    ({"a": entry(), "__metadata__": signed('{"sha256": {"a": 5}}')}, "checksum of a "),
    ({"a": entry(dtype="BF16")}, "dtype"),
    ({"a": entry(dtype=["F64"])}, "dtype"),
    ({"a": entry(dtype="\n" * 300)}, "dtype"),
    ({"a": entry(shape=[10**12], data_offsets=[0, 8 * 10**12])}, "describes"),
    ({"a": entry(shape=[2**40, 2**40], data_offsets=[0, 16])}, "shape"),
    ({"a": entry(shape=[0, 2**70], data_offsets=[0, 0])}, "shape"),
    ({"a": entry(shape=[2**64, 0], data_offsets=[0, 0])}, "shape"),
    ({"a": entry(shape=[-1, -2])}, "shape"),
    ({"a": entry(shape=[2.0])}, "shape"),
    ({"a": entry(shape=[True, 2])}, "shape"),
    ({"a": entry(shape=2)}, "shape"),
    ({"a": entry(shape=[2] + [1] * 8)}, "shape"),
    ({"a": entry(data_offsets=[0, 15])}, "offsets"),
    ({"a": entry(data_offsets=[16, 0])}, "offsets"),
    ({"a": entry(data_offsets=[-16, 0])}, "offsets"),
    ({"a": entry(data_offsets=[0])}, "offsets"),
    ({"a": entry(data_offsets=[0.0, 16.0])}, "offsets"),
    ({"a": entry(data_offsets=[8, 24])}, "does not begin"),
    ({"a": entry(), "b": entry()}, "does not begin"),
    ({"a": entry(), "b": entry(data_offsets=[8, 24])}, "does not begin"),
    ({"a": entry(), "b": entry(data_offsets=[24, 40])}, "does not begin"),
    ({"a": entry(shape=[1], data_offsets=[0, 8])}, "describes"),
    ({"a": {**entry(), "more": 1}}, "keys"),
    ({"a": {"dtype": "F64"}}, "keys"),
    ({"a": 5}, "damaged"),
    ({"a": [[]]}, "damaged"),
    ({"a b": entry()}, "name"),
    ({"x" * 201: entry()}, "name"),
    ('{"a": {"dtype": "F64", "dtype": "F32", "shape": [2], "data_offsets": [0, 16]}}', "twice"),
    (f'{{"a": {json.dumps(entry())}, "a": {json.dumps(entry())}}}', "'a' twice"),
    ('{"__metadata__": {"a": "b", "a": "c"}}', "'a' twice"),
    ('{"__metadata__": {"a": "b"}, "__metadata__": {"a": "c"}}', "'__metadata__' twice"),
    ({"__metadata__": {str(i): "" for i in range(17)}}, "16 names"),
    ({"__metadata__": {"fastnn": {}}}, "has no"),
    ({"__metadata__": 5}, "has no"),
    ('{"a": {' + "[" * 900, "end of the object"),
    ('{"a": ' + "[" * 900 + "}", "damaged"),
    ('{"a": {"shape": [' + "9" * 900 + "]}}", "keys"),
    (json.dumps({f"a{i}": entry(shape=[0], data_offsets=[0, 0]) for i in range(10_002)}), "10001 names"),
    (EMPTY + "x" + " " * 16, "continues"),
    (EMPTY.replace("\\u", "\\x"), "describes"),
    (b'{"\xff": {}}', "damaged"),
    (b'{"\\ud800": {}}', "name"),
    ('{"__metadata__": {"fastnn": "\\ud800"}}', "damaged"),
    ("{}", "has no"),
    ("{", "has no"),
    ("[]", "begin"),
]


@pytest.mark.parametrize(("header", "says"), HEADERS)
def test_forged_headers(header: Any, says: str, tmp_path: Path) -> None:
    if isinstance(header, dict) and says != "something else":
        header = {"__metadata__": signed('{"sha256": {}}'), **header}
    put(tmp_path / "m", header, bytes(16))
    assert says in refused(tmp_path / "m")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 40_000 + "]" * 40_000, "damaged"),
        ('{"a":' * 40_000 + "1" + "}" * 40_000, "damaged"),
        ("[" * 60_000, "more than 50000"),
        ("[" + "1," * 300_001 + "1]", "more than 300000"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "-Infinity"),
        ('{"a": 1e999}', "1e999"),
        ('{"a": ' + "9" * 5000 + "}", "damaged"),
        ('{"a": 1, "a": 2}', "twice"),
        ('{"b": [{"a": 1, "a": 2}]}', "twice"),
        ("[]", "object"),
        ("5", "object"),
        ("", "damaged"),
        ('{"sha256": []}', "not those"),
        ("{}", "not those"),
        ('{"sha256": {}} x', "damaged"),
    ],
)
def test_forged_manifests(text: str, says: str, tmp_path: Path) -> None:
    put(tmp_path / "m", {"__metadata__": signed(text)})
    assert says in refused(tmp_path / "m")


@pytest.mark.parametrize("length", [0, 1, 7, 9, 16 << 20, (16 << 20) + 1, 2**31, 2**63, 2**64 - 1])
def test_forged_lengths(length: int, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(length.to_bytes(8, "little") + b'{"a": 1}')
    refused(tmp_path / "m")


def pickled(file: io.BytesIO) -> None:
    pickle.dump(ARRAYS, file)


def bomb(file: io.BytesIO) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.npy", bytes(50 << 20))


def compressed(file: io.BytesIO) -> None:
    file.write(gzip.compress(bytes(100)))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (pickled, "a pickle"),
        (bomb, "a zip file"),
        (compressed, "gzip"),
        (lambda file: np.save(file, np.zeros(3)), "a NumPy array"),
        (lambda file: np.savez(file, a=np.zeros(3)), "a zip file"),
        (lambda file: None, "0 bytes"),
    ],
)
def test_files_of_others_are_named(make: Callable[[io.BytesIO], Any], says: str, tmp_path: Path) -> None:
    file = io.BytesIO()
    make(file)
    (tmp_path / "m").write_bytes(file.getvalue())
    assert says in refused(tmp_path / "m")


@pytest.mark.parametrize(
    "text",
    [
        "[" + "[]," * 5_000_000 + "[]]",
        '{"a":[' + "{}," * 49_000 + "{}]}",
        "[" + ",".join(['"abcdefgh"'] * 299_000) + "]",
        json.dumps({str(i): {} for i in range(49_000)}),
        json.dumps("x" * (15 << 20)),
    ],
    ids=["lists", "dicts", "strings", "keys", "long"],
)
def test_a_hostile_manifest_costs_little_memory(text: str, tmp_path: Path) -> None:
    put(tmp_path / "m", {"__metadata__": signed(text)})
    size = (tmp_path / "m").stat().st_size
    del text
    tracemalloc.start()
    refused(tmp_path / "m")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size + (50 << 20)


def test_reading_takes_the_memory_of_the_file(tmp_path: Path) -> None:
    archives.write(tmp_path / "m", {}, {f"a{i}": np.zeros(1 << 20, np.float32) for i in range(8)})
    tracemalloc.start()
    archives.read(tmp_path / "m")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 33 << 20


# --- what is no file ------------------------------------------------------------------------------------------------


def test_what_is_no_regular_file_is_refused_without_waiting(path: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link to a pipe").symlink_to(tmp_path / "pipe")
    assert "pipe" in refused(tmp_path / "pipe")
    assert "pipe" in refused(tmp_path / "link to a pipe")
    assert "folder" in refused(tmp_path)
    assert "device" in refused(Path("/dev/zero"))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        with pytest.raises(FileError, match="cannot be read"):
            archives.read(tmp_path / "s")
    with pytest.raises(FileError, match="there is no file"):
        archives.read(tmp_path / "nothing")
    with pytest.raises(FileError):
        archives.read("a\0b")
    (tmp_path / "folder").symlink_to(tmp_path)
    assert archives.read(tmp_path / "folder" / path.name)[0] == MANIFEST


def test_no_handle_stays_open(path: Path, tmp_path: Path) -> None:
    path.with_suffix(".cut").write_bytes(path.read_bytes()[:-1])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        archives.read(path)
        refused(path.with_suffix(".cut"))
        refused(tmp_path)
        archives.write(path, MANIFEST, ARRAYS)
    assert len(os.listdir("/proc/self/fd")) == before


# --- faults of the system -------------------------------------------------------------------------------------------


class Faulty:
    """Functions of the system, of which the n-th call altogether fails."""

    def __init__(self, at: int, code: int, monkeypatch: pytest.MonkeyPatch, also: tuple[str, ...] = ()) -> None:
        self.at, self.code, self.calls, self.failed = at, code, 0, ""
        for name in ("open", "fdopen", "fsync", "replace", "close", *also):
            monkeypatch.setattr(atomic.os, name, self.wrap(name, getattr(os, name)))

    def call(self, name: str) -> None:
        self.calls += 1
        if self.calls > self.at and (not self.failed or self.failed == "unlink" or name == "unlink"):
            self.failed = self.failed or name
            raise OSError(self.code, os.strerror(self.code))

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            if name == "close":
                function(*args, **options)  # the handle is gone, whatever close says
            self.call(name)
            made = function(*args, **options) if name != "close" else None
            return FaultyFile(made, self) if name == "fdopen" else made

        return wrapped


class FaultyFile:
    def __init__(self, file: Any, faults: Faulty) -> None:
        self.file, self.faults = file, faults

    def __enter__(self) -> FaultyFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, piece: Any) -> int:
        self.faults.call("write")
        return int(self.file.write(piece))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def caught(function: Callable[[], Any]) -> Exception | None:
    try:
        function()
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("removable", [True, False])
def test_the_old_file_survives_every_fault(code: int, removable: bool, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = {name: value + 1 for name, value in ARRAYS.items()}
    failed = []
    for at in range(100):
        archives.write(path, MANIFEST, ARRAYS)
        with monkeypatch.context() as patched:
            faults = Faulty(at, code, patched, () if removable else ("unlink",))
            error = caught(lambda: archives.write(path, MANIFEST, new))
        if error is None:
            break
        assert type(error) is FileError
        assert "cannot be written" in str(error)
        assert os.strerror(code) in str(error)
        failed.append(faults.failed)
        in_place = "replace" in failed[:-1]
        assert same(archives.read(path)[1], new if in_place else ARRAYS), faults.failed
        left = set(path.parent.iterdir()) - {path}
        assert not left or not removable
        for leftover in left:
            leftover.unlink()
    assert not faults.failed
    assert same(archives.read(path)[1], new)
    writes = 2 + len(ARRAYS)
    assert failed == ["open", "fdopen", *["write"] * writes, "fsync", "replace", "open", "fsync", "close"]


def test_a_full_disk(path: Path) -> None:
    """A limit on the size of files, as a full disk would: the system refuses in the middle of the file."""
    import resource
    import signal

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(FileError, match="cannot be written"):
            archives.write(path, {}, {"a": np.zeros(50_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert same(archives.read(path)[1], ARRAYS)
    assert list(path.parent.iterdir()) == [path]


def test_reading_that_fails_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(handle: int) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(archives.os, "fstat", broken)
        error = caught(lambda: archives.read(path))
    assert type(error) is FileError
    assert str(error) == f"{path} cannot be read: {os.strerror(errno.EIO)}"
