"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from fastnn.errors import FileError


def write_whole(path: Path, content: bytes) -> None:
    """Write `path` whole or not at all: what was there before stays until the new file is safely on the disk.

    Write beside it, flush, rename, flush the folder. Raises FileError.
    """
    try:
        temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        if os.name == "posix":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error}") from error
