"""A folder with the last states of a long training, for one writing process at a time."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

from fastnn.errors import FileError, FormatError, InputError, warn
from fastnn.network.model import ModelState
from fastnn.storage.atomic import unwritable
from fastnn.storage.model_file import Run, Stored, save

_GENERATION = re.compile(r"step-(\d{9,19})\.safetensors")
_LEFTOVER = re.compile(r"\.(step-\d{9,19}|best)\.safetensors\.[0-9a-f]{16}")
_held: set[int] = set()
"""Handles of the locks of this process."""


def _let_go() -> None:
    """In a forked child: the lock is the parent's, and ends with it."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


class Folder:
    """A folder with the last `keep` states of a training, `step-000000123.safetensors`, and the best one.

    Only files of these names are looked at, and no symbolic links. One `Folder` writes at a time: `lock` says until when.
    """

    def __init__(self, path: str | os.PathLike[str], keep: int = 2) -> None:
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise InputError(f"keep: expected an integer >= 1, got {keep!r}")
        self.path, self.keep = Path(path), keep
        self.best = self.path / "best.safetensors"
        self._locks = 0

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep everybody else from writing here; what killed writers have left is removed. May be nested.

        Raises FileError while another `Folder`, of this process or of another, holds the lock. It ends with its process.
        """
        if self._locks:
            self._locks += 1
            try:
                yield
            finally:
                self._locks -= 1
            return
        handle = self._acquire_lock()
        _held.add(handle)
        self._locks = 1
        try:
            for leftover in self._regular(_LEFTOVER).values():
                self._remove(leftover)
            yield
        finally:
            self._locks = 0
            if handle in _held:  # not in a forked child
                _held.discard(handle)
                fcntl.flock(handle, fcntl.LOCK_UN)  # at once, also where a child has not closed its copy yet
                os.close(handle)

    def _acquire_lock(self) -> int:
        if fcntl is None:
            raise FileError(f"{self.path} cannot be locked: this system has no flock")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise unwritable(self.path, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
        except OSError as error:
            owner = os.pread(handle, 20, 0).decode("ascii", "replace")
            os.close(handle)
            if isinstance(error, BlockingIOError):
                who = f"process {owner}" if owner.isdigit() else "another process"
                raise FileError(f"{self.path} is being written by {who}") from error
            raise FileError(f"{self.path} cannot be locked: {error.strerror or error}") from error
        return handle

    def _regular(self, pattern: re.Pattern[str]) -> dict[str, Path]:
        """Regular files with names of this pattern."""
        try:
            names = [name for name in os.listdir(self.path) if pattern.fullmatch(name)]
            paths = {name: self.path / name for name in names}
            return {name: path for name, path in paths.items() if stat.S_ISREG(path.lstat().st_mode)}
        except FileNotFoundError:  # the folder, or a file that its writer has just removed
            return {} if not self.path.exists() else self._regular(pattern)
        except OSError as error:
            raise FileError(f"{self.path} cannot be read: {error.strerror or error}") from error

    def _generations(self) -> list[tuple[int, Path]]:
        """Steps and files, the newest first."""
        generations = ((int(name[len("step-") : name.index(".")]), path) for name, path in self._regular(_GENERATION).items())
        return sorted(generations, reverse=True)

    def newest_step(self) -> int | None:
        """The step of the newest generation, whole or not; None where there is none."""
        generations = self._generations()
        return generations[0][0] if generations else None

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            warn(f"{path} cannot be removed: {error.strerror or error}")

    def write(self, model: ModelState, run: Run | None = None) -> Path:
        """Write the model with its optimizer and `run` as a new generation; then remove those before the newest `keep`.

        Files of later steps, which another training may have left, stay as they are. Raises what `save` and `lock` raise.
        """
        step = model.counters.step
        path = self.path / f"step-{step:09d}.safetensors"
        with self.lock():
            self._save(model, path, run)
            for _, old in [(number, old) for number, old in self._generations() if number <= step][self.keep :]:
                self._remove(old)
        return path

    def write_best(self, model: ModelState, run: Run | None = None) -> Path:
        """Write the same as `best.safetensors`, instead of the one before."""
        with self.lock():
            self._save(model, self.best, run)
        return self.best

    def _save(self, model: ModelState, path: Path, run: Run | None) -> None:
        """Write a file of this folder; a symbolic link that is in its place goes, and what it points to stays as it is."""
        if path.is_symlink():
            self._remove(path)
        save(model, path, optimizer=True, run=run)

    def latest(self) -> Path | None:
        """The newest generation that is whole; see `read_latest`."""
        stored = self.read_latest()
        return None if stored is None else stored.path

    def read_latest(self) -> Stored | None:
        """The content of the newest generation that is whole, with one warning if newer ones are damaged; None where there is
        none at all.

        Raises FormatError if all are damaged.
        """
        damaged: list[str] = []
        for _, path in self._generations():
            try:
                stored = Stored.read(path)
            except FileError as error:
                damaged.append(str(error))
                continue
            if damaged:
                warn(f"{path} is used: {'; '.join(damaged)}")
            return stored
        if damaged:
            raise FormatError(f"{self.path} holds no whole file: {'; '.join(damaged)}")
        return None
