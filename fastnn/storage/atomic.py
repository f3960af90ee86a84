"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastnn.errors import FileError


def write_whole(path: Path, content: bytes | Iterable[Any]) -> None:
    """Write `path` whole or not at all: what was there before stays until the new file is safely on the disk.

    `content`: bytes, or pieces of them (whatever has a buffer) that come one after another. Write beside it, flush, rename,
    flush the folder. Raises FileError; where that is for the last of these, the new file is in its place already.
    """
    pieces: Iterable[Any] = (content,) if isinstance(content, bytes) else content
    try:
        temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            with os.fdopen(handle, "wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error says why
                os.unlink(temporary)
            raise
        if os.name == "posix":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> FileError:
    """The error that `path` cannot be written, and why: the system's words may name the file that is written beside it."""
    reason = str(error.strerror or error)
    if isinstance(error, FileNotFoundError) and not path.parent.is_dir():
        reason = f"there is no folder {path.parent}"
    elif isinstance(error, IsADirectoryError):
        reason = "it is a folder"
    elif isinstance(error, FileExistsError):
        reason = "it is a file, and no folder"
    return FileError(f"{path} cannot be written: {reason}")
