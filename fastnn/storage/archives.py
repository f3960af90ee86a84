"""Archives: a manifest and named arrays in one file, of the safetensors layout. Nothing in it is code.

    8 bytes      H, the length of the header, little-endian
    H bytes      {"__metadata__": {"fastnn": manifest, "fastnn.sha256": digest of the manifest's text},
                  name: {"dtype": "F32", "shape": [I, O], "data_offsets": [begin, end]}, ...} in ASCII, filled up with spaces
    the rest     the arrays one after another, little-endian, in C order; offsets count from here

The manifest is a JSON object; under "sha256" it holds, by name, the SHA-256 of `dtype`, `shape` and the bytes of each array.

A file is read as if an enemy had written it: nothing is allocated that the file is not large enough to fill, and whatever
does not fit exactly is an error. The layout: https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np

from fastnn.errors import FastnnError, FileError, FormatError, InputError
from fastnn.storage.atomic import write_whole

KEY, DIGEST_KEY, DIGESTS = "fastnn", "fastnn.sha256", "sha256"
DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "I64": np.dtype("<i8")}
CODES = {dtype: code for code, dtype in DTYPES.items()}
HEADER_LIMIT = 16 << 20
TENSOR_LIMIT = 10_000
RANK_LIMIT = 8
ENTRY_LIMIT = 1000
"""Characters of what the header says of one array."""
SYMBOL_LIMITS = {",": 300_000, ":": 50_000, "[": 50_000, "{": 50_000}
"""How often the manifest may hold these: a parsed value takes up to thirty times the memory of its text."""

_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_SPACE = re.compile(r"[ \t\n\r]*")
_STRANGERS = {
    b"PK": "a zip file, such as PyTorch and NumPy write",
    b"\x80": "a pickle, which would run code when it is loaded",
    b"\x89HDF": "an HDF5 file, such as Keras writes",
    b"\x93NUMPY": "a NumPy array",
    b"\x1f\x8b": "packed with gzip",
}


File = str | os.PathLike[str] | IO[bytes]
"""A path, or a binary file object that is open already."""


def path_of(file: File) -> Path:
    """The path of a file, for messages; of a file object its name, if it has one."""
    if isinstance(file, str | os.PathLike):
        return Path(file)
    name = getattr(file, "name", None)
    return Path(name if isinstance(name, str) else f"<{type(file).__name__}>")


def write(file: File, manifest: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Write a path whole or not at all, or to a binary file object.

    `tensors`: float32, float64 and int64 arrays of up to 8 axes.

    Raises InputError for what an archive cannot hold, FileError where the system refuses.
    """
    arrays, entries, digests, end = {}, {}, {}, 0
    if len(tensors) > TENSOR_LIMIT:
        raise InputError(f"a file holds up to {TENSOR_LIMIT} arrays, got {len(tensors)}")
    for name, value in sorted(tensors.items(), key=lambda item: -item[1].itemsize):  # each lies on a multiple of its size
        code = CODES.get(value.dtype.newbyteorder("<"))
        if code is None or value.ndim > RANK_LIMIT:
            raise InputError(f"{name}: expected float32, float64 or int64 of up to {RANK_LIMIT} axes, got {_like(value)}")
        if not _is_name(name):
            raise InputError(f"{name!r}: expected a name of up to 200 letters, digits, '_' and single dots within")
        arrays[name] = np.asarray(value, DTYPES[code], order="C").reshape(value.shape)
        begin, end = end, end + value.nbytes
        entries[name] = {"dtype": code, "shape": list(value.shape), "data_offsets": [begin, end]}
        digests[name] = _digest(code, arrays[name])
    try:
        text = json.dumps({**manifest, DIGESTS: digests}, allow_nan=False)
        _parse(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"what belongs to the model cannot be stored as JSON: {error}") from error
    metadata = {KEY: text, DIGEST_KEY: hashlib.sha256(text.encode()).hexdigest()}
    header = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > HEADER_LIMIT:
        raise InputError(f"what belongs to the model takes {len(header)} bytes as JSON; a file holds up to {HEADER_LIMIT}")
    pieces: tuple[Any, ...] = (len(header).to_bytes(8, "little"), header, *map(_bytes, arrays.values()))
    if isinstance(file, str | os.PathLike):
        write_whole(Path(file), pieces)
        return
    for piece in pieces:
        file.write(piece)


def read(file: File) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The manifest and the arrays of a file that `write` wrote, in the order of the file; of a file object what is left of it.

    Raises FormatError for everything that is not such a file, whole and unchanged; FileError where the system refuses.
    """
    path = path_of(file)
    try:
        if not isinstance(file, str | os.PathLike):
            content = file.read()
            return _read(io.BytesIO(content), len(content))
        with _open(path) as opened:
            return _read(opened, os.fstat(opened.fileno()).st_size)
    except FastnnError:
        raise
    except (ValueError, RecursionError) as error:
        refuse(path, f"is not a model of fastnn, or is damaged: {error}", error)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from error


def refuse(path: Path, why: str, error: BaseException | None = None) -> NoReturn:
    """Raise FormatError in one line of bounded length, whatever the file holds."""
    text = " ".join(why.split())
    raise FormatError(f"{path} {text if len(text) <= 500 else text[:500] + ' ...'}") from error


def _open(path: Path) -> IO[bytes]:
    """A regular file, opened without waiting for whoever is at the other end of a pipe."""
    names = ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")
    flags = os.O_RDONLY | sum(getattr(os, name, 0) for name in names)
    try:
        file = open(path, "rb", opener=lambda name, _: os.open(name, flags))  # noqa: SIM115
    except FileNotFoundError as error:
        raise FileError(f"there is no file {path}") from error
    except IsADirectoryError as error:
        refuse(path, "is a folder, not a file", error)
    try:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            refuse(path, "is a device or a pipe, not a file")
    except BaseException:
        file.close()
        raise
    return file


class _Entry(NamedTuple):
    """One array as the header describes it."""

    name: str
    code: str
    shape: tuple[int, ...]
    begin: int
    end: int


def _read(file: IO[bytes], size: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    manifest, entries = _header(file, size)
    digests = manifest.pop(DIGESTS, None)
    if not isinstance(digests, dict) or set(digests) != {entry.name for entry in entries}:
        raise ValueError("its arrays are not those of its manifest")
    tensors = {}
    for entry in entries:
        array = np.empty(entry.shape, DTYPES[entry.code])
        if file.readinto(_bytes(array)) != array.nbytes:  # type: ignore[attr-defined]
            raise ValueError("it was cut while it was read")
        if _digest(entry.code, array) != digests[entry.name]:
            raise ValueError(f"the checksum of {entry.name} is wrong")
        tensors[entry.name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return manifest, tensors


def _header(file: IO[bytes], size: int) -> tuple[dict[str, Any], list[_Entry]]:
    """The manifest, and the arrays in the order in which they lie in the file; the file stands where they begin."""
    first = file.read(9)
    length = int.from_bytes(first[:8], "little")
    if len(first) < 9 or length > min(HEADER_LIMIT, size - 8) or first[8:] != b"{":
        kind = next((kind for magic, kind in _STRANGERS.items() if first.startswith(magic)), None)
        raise ValueError(f"it is {kind}" if kind else f"its {size} bytes do not begin with the header of one")
    text = (b"{" + file.read(length - 1)).decode("ascii")
    if len(text) != length:
        raise ValueError("it was cut while it was read")
    metadata, entries = _scan(text)
    del text
    if KEY not in metadata:
        raise ValueError("it is a safetensors file of something else")
    if hashlib.sha256(metadata[KEY].encode()).hexdigest() != metadata.get(DIGEST_KEY):
        raise ValueError("the checksum of its manifest is wrong")
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    end = 0
    for entry in entries:
        if entry.begin != end:
            raise ValueError(f"{entry.name} does not begin where the array before it ends")
        end = entry.end
    if 8 + length + end != size:
        raise ValueError(f"its header describes {8 + length + end} bytes, the file has {size}")
    return _parse(metadata[KEY]), entries


class _Scanner:
    """Reads the outer levels of a header piece by piece, so that no more of it is made than may be there."""

    decoder = json.JSONDecoder()

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def take(self, symbols: str) -> str:
        """The next symbol, which is one of these."""
        space = _SPACE.match(self.text, self.at)
        assert space is not None  # it may be empty
        self.at = space.end() + 1
        symbol = self.text[space.end() : self.at]
        if not symbol or symbol not in symbols:
            raise ValueError(f"its header has no {' or '.join(symbols)} at character {space.end()}")
        return symbol

    def string(self) -> str:
        self.take('"')
        value, self.at = self.decoder.raw_decode(self.text, self.at - 1)
        return str(value)

    def flat(self) -> Any:
        """A value that ends with the next brace."""
        end = self.text.find("}", self.at, self.at + ENTRY_LIMIT) + 1
        if not end:
            raise ValueError(f"its header has no end of the object at character {self.at}")
        value, self.at = json.loads(self.text[self.at : end], object_pairs_hook=_unique), end
        return value

    def keys(self, limit: int) -> Iterator[str]:
        """The keys of an object, each once; whoever asks for the next one has taken the value of this one."""
        seen: set[str] = set()
        self.take("{")
        while True:
            key = self.string()
            if key in seen or len(seen) == limit:
                raise ValueError(f"its header has {key[:200]!r} twice" if key in seen else f"its header has over {limit} names")
            seen.add(key)
            self.take(":")
            yield key
            if self.take(",}") == "}":
                return


def _scan(text: str) -> tuple[dict[str, str], list[_Entry]]:
    scanner = _Scanner(text)
    metadata, entries = {}, []
    for name in scanner.keys(TENSOR_LIMIT + 1):
        if name == "__metadata__":
            metadata = {key: scanner.string() for key in scanner.keys(16)}
        else:
            entries.append(_entry(name, scanner.flat()))
    if text[scanner.at :].strip(" "):
        raise ValueError(f"its header continues after its end at character {scanner.at}")
    return metadata, entries


def _entry(name: str, described: Any) -> _Entry:
    if not _is_name(name):
        raise ValueError(f"an array has the name {name[:200]!r}")
    if not isinstance(described, dict) or set(described) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name} has not the keys dtype, shape and data_offsets")
    code, shape, offsets = described["dtype"], described["shape"], described["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise ValueError(f"{name}: expected a dtype of {', '.join(DTYPES)}, got {code!r}")
    if not _counts(shape) or len(shape) > RANK_LIMIT or math.prod(d or 1 for d in shape) >= 2**59:
        raise ValueError(f"{name}: expected a shape of up to {RANK_LIMIT} sizes, got {shape!r}")
    if not _counts(offsets) or len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * DTYPES[code].itemsize:
        raise ValueError(f"{name}: the offsets {offsets!r} do not fit the shape {shape!r} of {code}")
    return _Entry(name, code, tuple(shape), offsets[0], offsets[1])


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _is_name(name: str) -> bool:
    return len(name) <= 200 and _NAME.fullmatch(name) is not None


def _like(value: np.ndarray) -> str:
    return f"{value.dtype} {value.shape}"


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _digest(code: str, array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{code} {list(array.shape)} ".encode())
    digest.update(_bytes(array))
    return digest.hexdigest()


def _parse(text: str) -> dict[str, Any]:
    """The JSON object `text`, in which every number is finite and every key is there once; ValueError or RecursionError."""
    for symbol, limit in SYMBOL_LIMITS.items():
        if text.count(symbol) > limit:
            raise ValueError(f"its manifest holds {symbol!r} more than {limit} times")
    manifest = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite)
    if not isinstance(manifest, dict):
        raise ValueError("its manifest is no JSON object")
    return manifest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("a key is there twice")
    return unique


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]} is no finite number")
