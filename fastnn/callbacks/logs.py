"""What a training measured, in lists and in files."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

import numpy as np

from fastnn.callbacks.base import Callback, RunState
from fastnn.storage.atomic import unwritable, write_whole


class StepLosses(Callback):
    """The loss of every step, for `fastnn.plots.cost_curves(history, steps=...)`.

    `losses`: (steps,) float64, each of one mini-batch, from before its update; NaN where Ctrl-C came before it was kept, or the
    run was begun without this.
    """

    def __init__(self) -> None:
        self._keep(np.zeros(0))
        self._restored = False

    def _keep(self, losses: np.ndarray) -> None:
        self._chunks, self._known = [losses], len(losses)

    @property
    def losses(self) -> np.ndarray:
        return np.concatenate(self._chunks)

    def begin(self, run: RunState) -> None:
        if not self._restored:
            self._keep(np.zeros(0))
        self._restored = False

    def chunk_end(self, run: RunState, losses: np.ndarray) -> None:
        self._chunks += [np.full(run.step - len(losses) - self._known, np.nan), losses.copy()]
        self._known = run.step

    def state(self) -> dict[str, Any]:
        return {"losses": self.losses}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._keep(np.array(state["losses"], np.float64))
        self._restored = True


class CSVLog(Callback):
    """A row for each epoch in a CSV file: epoch (from 1), step, seconds of training, the learning rate that it ended with,
    and the history's values.

    Each row is on the disk when the next epoch begins. An existing file is replaced; a run that is resumed keeps the rows
    of its finished epochs, and cells stay empty where the one or the other did not measure a quantity.
    """

    FIRST = ("epoch", "step", "seconds", "learning_rate")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file: TextIO | None = None
        self._columns: list[str] = []
        self._seconds = 0.0

    def begin(self, run: RunState) -> None:
        kept = self._read_rows(run.epoch) if run.epoch else []
        self._columns = kept[0] if kept else []
        self._seconds = float(kept[-1][2]) if len(kept) > 1 else 0.0
        self._started = perf_counter()
        self._rate = run.learning_rate
        self._open(kept)

    def _open(self, rows: list[list[str]]) -> None:
        """Continue behind these rows, which are on the disk at every moment."""
        if rows:
            text = io.StringIO(newline="")
            csv.writer(text).writerows(rows)
            write_whole(self.path.resolve(), text.getvalue().encode())
        try:
            self._file = self.path.open("a" if rows else "w", newline="", encoding="utf-8")
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _widen(self, more: list[str], epochs: int) -> None:
        """Let the log have these columns too, which are empty for the epochs so far."""
        assert self._file is not None
        self._file.close()
        heading, *rows = self._read_rows(epochs)
        self._columns = [*heading, *more]
        self._open([self._columns, *([*row, *[""] * len(more)] for row in rows)])

    def _read_rows(self, epochs: int) -> list[list[str]]:
        """The heading and the rows of the first `epochs` epochs of a log that is there."""
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))
        except (OSError, UnicodeDecodeError, csv.Error):
            return []
        if not rows or tuple(rows[0][:4]) != self.FIRST:
            return []
        whole = [row for row in rows[1:] if len(row) == len(rows[0]) and row[0].isdigit() and int(row[0]) <= epochs]
        return [rows[0], *whole]

    def chunk_end(self, run: RunState, losses: np.ndarray) -> None:
        self._rate = run.learning_rate

    def epoch_end(self, run: RunState, epoch: int, values: Mapping[str, float]) -> None:
        assert self._file is not None
        seconds = self._seconds + perf_counter() - self._started
        row = dict(zip(self.FIRST, (epoch + 1, run.step, f"{seconds:.3f}", repr(self._rate)), strict=True))
        row |= {name: repr(float(value)) for name, value in values.items()}
        if more := [name for name in row if self._columns and name not in self._columns]:
            self._widen(more, epoch)
        try:
            if not self._columns:
                self._columns = [*row]
                csv.writer(self._file).writerow(self._columns)
            csv.writer(self._file).writerow([row.get(name, "") for name in self._columns])
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise unwritable(self.path, error) from error

    def end(self, run: RunState, error: BaseException | None) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):  # every row was flushed; what failed then was raised then
                file.close()
