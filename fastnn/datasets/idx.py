"""The IDX format of the MNIST files, plain or compressed with gzip.

A file is two zero bytes, one byte for the type of an element, one byte for the number of dimensions, the dimensions as
big-endian 32-bit integers, and the elements in C order, most significant byte first.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fastnn.errors import FileError, FormatError

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
CHUNK = 1 << 20


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """The array in the IDX file `path`, in the machine's byte order; gzip is recognized by its first two bytes.

    Raises `FileError` if the file cannot be read and `FormatError` if it is not IDX, ends early or continues after its end.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if compressed else path.open("rb") as file:
            return _read(file, path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FormatError(f"{path} is not a whole gzip file ({error}): copy or download it again") from error
    except FormatError:
        raise
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error


def _read(file: gzip.GzipFile | BinaryIO, path: Path) -> np.ndarray:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES or magic[3] == 0:
        codes = ", ".join(f"{code:02x}" for code in DTYPES)
        raise FormatError(
            f"{path} is not an IDX file: expected the bytes 00 00, a type ({codes}) and a number of dimensions, "
            f"got {magic.hex(' ') or 'nothing'}"
        )
    dtype, dimensions = np.dtype(DTYPES[magic[2]]), magic[3]
    header = file.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise FormatError(f"{path} ends within its header: expected {4 * dimensions} bytes of dimensions, got {len(header)}")
    shape = tuple(int(size) for size in np.frombuffer(header, ">u4"))
    size = math.prod(shape) * dtype.itemsize
    # In pieces, and no further than one byte beyond the end: neither a header that lies about the size nor a file that
    # unpacks to far more than it says may claim memory for it.
    content = bytearray()
    while len(content) <= size and (piece := file.read(min(CHUNK, size + 1 - len(content)))):
        content += piece
    if len(content) != size:
        what = "ends early" if len(content) < size else "continues after its end"
        got = f"got {len(content)}" if len(content) < size else "got more"
        raise FormatError(f"{path} {what}: its header {shape} promises {size} bytes of {dtype.name}, {got}")
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
