"""Keeping the states of a training in a folder."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastnn.callbacks.base import Callback, RunState
from fastnn.callbacks.monitor import Monitor
from fastnn.configurations import as_count
from fastnn.errors import DeviceError, DivergenceError, FileError, InputError, nearest, warn


class Checkpoint(Callback):
    """Write the model, its optimizer's state and how far the run is into `folder`, for `fit(resume=...)` to continue from.

    After every `epochs` epochs, every `steps` steps, or both; and when the training ends, also when Ctrl-C or an exception
    ended it (at the last whole step then). The newest `keep` files are kept. `best`: a column of the history such as
    "val_loss"; the model of its best epoch is kept as `best.safetensors` as well (`mode` as in `EarlyStopping`).

    While callbacks are told of an epoch, a first Ctrl-C waits until all of them know. A second one does not, and leaves the
    files that are there.

    A file that cannot be written (a full disk) ends the training with a FileError at the last whole step, or, with
    `on_error="warn"`, is warned of, and the training continues; files that are there already stay whole either way. One process
    at a time writes into a folder, and one training: a folder that holds later steps than the model has made is refused.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        epochs: int | None = None,
        steps: int | None = None,
        keep: int = 2,
        best: str | None = None,
        mode: str | None = None,
        on_error: str = "raise",
    ) -> None:
        from fastnn.storage.folder import Folder

        if on_error not in ("raise", "warn"):
            raise InputError(f"on_error: unknown {on_error!r}{nearest(on_error, ('raise', 'warn'))}")
        self.every = None if steps is None else as_count("steps", steps)
        self.epochs = None if epochs is None else as_count("epochs", epochs)
        if self.every is None and self.epochs is None:
            self.epochs = 1
        self.folder = Folder(Path(folder), as_count("keep", keep))
        self.on_error = on_error
        self.watched = None if best is None else Monitor("best", best, mode)
        self.best = math.nan
        self._restored = False
        self._lock: Any = None
        self._written: tuple[int, int] | None = None

    def begin(self, run: RunState) -> None:
        if self.watched is not None:
            self.watched.check(run)
        run.model.optimizer.to_config()  # refuses now what no file could hold after the first epoch
        if not self._restored:
            self.best = math.nan
        self._restored = False
        self._written = None
        lock = self.folder.lock()
        lock.__enter__()
        newest = self.folder.newest_step()
        if not run.step and newest is not None and newest > run.model.counters.step:
            lock.__exit__(None, None, None)
            raise InputError(
                f"{self.folder.path} already contains checkpoints up to step {newest}; pass resume=True to continue, "
                "or use another folder"
            )
        self._lock = lock

    def step_end(self, run: RunState) -> None:
        self._write(run)

    def epoch_end(self, run: RunState, epoch: int, values: Mapping[str, float]) -> None:
        if self.watched is not None:
            value = self.watched.value(values)
            if math.isnan(self.best) or self.watched.is_better(value, self.best, 0.0):
                self.best = value
                self._try(lambda: self.folder.write_best(run.model, run.checkpoint_state()))
        if self.epochs is not None and run.epoch % self.epochs == 0:
            self._write(run)

    def end(self, run: RunState, error: BaseException | None) -> None:
        if self._lock is None:
            return
        try:
            # After those the model is not where the run's own counts are, or the file that could not be written is this one.
            if run.consistent and not isinstance(error, DivergenceError | DeviceError | FileError):
                self._write(run)
        finally:
            lock, self._lock = self._lock, None
            lock.__exit__(None, None, None)

    def state(self) -> dict[str, Any]:
        return {"best": self.best}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best = float(state["best"])
        self._restored = True

    def _write(self, run: RunState) -> None:
        if run.progress == self._written:
            return
        self._try(lambda: self.folder.write(run.model, run.checkpoint_state()))
        self._written = run.progress

    def _try(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except FileError as error:
            if self.on_error == "raise":
                raise
            warn(f"no checkpoint was written: {error}", RuntimeWarning)
