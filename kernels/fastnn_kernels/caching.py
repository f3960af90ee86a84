"""Compiled kernels kept on disk: files with a checksum, in a folder that only its owner may touch.

A file that was damaged or cannot be read costs one warning and one compilation; a folder that cannot be written costs one
warning a process.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import tempfile
import warnings
from pathlib import Path


def read(path: Path) -> bytes | None:
    """What `write` left at `path`; None where there is nothing whole."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _warn_once("unreadable", f"a cached kernel cannot be read ({error}); it is compiled again")
        return None
    digest, payload = content[:32], content[32:]
    if hashlib.sha256(payload).digest() != digest:
        _warn_once("damaged", f"the cached kernel {path} is damaged; it is compiled again")
        return None
    return payload


def write(path: Path, payload: bytes) -> None:
    """Keep `payload` at `path`, whole or not at all."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(payload).digest() + payload)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        _warn_once("unwritable", f"compiled kernels cannot be kept ({error}); they live in memory only")


@functools.cache
def cache_folder() -> Path | None:
    """The folder of compiled kernels, made if need be; None where there is none to be had.

    `FASTNN_CACHE_DIR` names it; else `fastnn` in `XDG_CACHE_HOME`, else in `~/.cache`. It must belong to this user and be
    closed to others, since what lies in it is run.
    """
    named = os.environ.get("FASTNN_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME")
    folder = Path(named) if named else (Path(base) if base else Path.home() / ".cache") / "fastnn"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if hasattr(os, "getuid") and (status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022):
            _warn_once(
                "unsafe", f"{folder} belongs to another user or can be written by others; compiled kernels are not kept there"
            )
            return None
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:
        _warn_once("unwritable", f"compiled kernels cannot be kept ({error}); they live in memory only")
        return None
    return folder


_warned: set[str] = set()


def _warn_once(kind: str, message: str) -> None:
    if kind not in _warned:
        _warned.add(kind)
        warnings.warn(message, RuntimeWarning, stacklevel=4)
