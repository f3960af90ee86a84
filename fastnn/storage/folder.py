"""A folder with the last states of a long training, for one writing process at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from fastnn.errors import FileError, FormatError, InputError, PackageError, warn

try:
    from filelock import FileLock, Timeout
except ImportError as error:
    raise PackageError.of("filelock", "writing checkpoints", error) from error

from fastnn.network.model import ModelState
from fastnn.storage.atomic import unwritable
from fastnn.storage.model_file import Run, Stored, save

_GENERATION = re.compile(r"step-(\d{9,19})\.safetensors")
_LEFTOVER = re.compile(r"\.(step-\d{9,19}|best)\.safetensors\.[0-9a-f]{16}")
_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What file systems answer that have no locks, or none left."""


def _write_owner(handle: int) -> None:
    """Leave the number of this process in the lock file, for whoever finds it locked."""
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, str(os.getpid()).encode())


class Folder:
    """A folder with the last `keep` states of a training, `step-000000123.safetensors`, and the best one.

    Only files of these names are looked at, and no symbolic links. One `Folder` writes at a time: `lock` says until when.
    """

    def __init__(self, path: str | os.PathLike[str], keep: int = 2) -> None:
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise InputError(f"keep: expected an integer >= 1, got {keep!r}")
        self.path, self.keep = Path(path), keep
        self.best = self.path / "best.safetensors"
        self._lock = FileLock(
            self.path / "lock", timeout=0, thread_local=False, preserve_lock_file=True, on_acquired=_write_owner
        )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep everybody else from writing here; what killed writers have left is removed. May be nested.

        Raises FileError while another `Folder`, of this process or of another, holds the lock. It ends with its process.
        """
        self._acquire_lock()
        try:
            if self._lock.lock_counter == 1:
                for leftover in self._regular(_LEFTOVER).values():
                    self._remove(leftover)
            yield
        finally:
            self._lock.release()

    def _acquire_lock(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise FileError(f"{self.path} is being written by {self._read_owner()}") from error
        except OSError as error:
            if error.errno in _WITHOUT_LOCKS:
                raise FileError(f"{self.path} cannot be locked: {error.strerror or error}") from error
            raise unwritable(self.path, error) from error

    def _read_owner(self) -> str:
        """Who holds the lock, as far as the lock file can be read."""
        try:
            owner = (self.path / "lock").read_bytes().decode("ascii", "replace")
        except OSError:  # Windows keeps others from reading what is locked
            owner = ""
        return f"process {owner}" if owner.isdigit() else "another process"

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
