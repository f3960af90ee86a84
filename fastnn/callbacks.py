"""Callbacks: what `fit` tells while it runs. A callback sees the model only between chunks, when all its steps are whole.

`fit(callbacks=[...])` calls them in the order of the list. An exception that one of them raises ends the training at the last
whole step: `fit` passes it on, after `end` of every callback was called.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, TextIO

import numpy as np

from fastnn.configurations import Keywords, as_count, as_number
from fastnn.errors import DeviceError, DivergenceError, FileError, InputError, KindError, nearest, warn
from fastnn.metrics import METRICS
from fastnn.network.state import Snapshot
from fastnn.storage.atomic import unwritable, write_whole


class RunState(Protocol):
    """What callbacks see of a training."""

    model: Any
    """The `Sequential` that is trained."""
    engine: Any
    """Where it is trained, a `fastnn.engines.Engine`."""
    epoch: int
    """How many epochs are over."""
    epochs: int
    """How many there are in all."""
    step: int
    """How many steps of all epochs are done."""
    in_epoch: int
    """How many of them are steps of this epoch."""
    batch_size: int

    @property
    def callbacks(self) -> Sequence[Callback]:
        """All of this training, in the order in which they are called."""

    @property
    def history(self) -> dict[str, list[float]]:
        """One list a quantity, one value an epoch."""

    @property
    def total_steps(self) -> int | None:
        """Steps of all epochs; None where an iterable does not tell how long it is."""

    @property
    def columns(self) -> list[str]:
        """What each epoch adds to the history, but for what callbacks measure."""

    @property
    def place(self) -> tuple[int, int]:
        """Steps and epochs so far, to be compared."""

    @property
    def consistent(self) -> bool:
        """Whether model and counts belong to each other, so that a checkpoint may be written."""

    @property
    def learning_rate(self) -> float:
        """Of the next step. What is assigned takes the place of the optimizer's schedule."""

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None: ...

    def record(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Plain values and arrays that a checkpoint keeps beside the model, so that the training can be resumed."""

    def keep(self, snapshot: Snapshot) -> None:
        """Restore this snapshot of the model when the training is over."""


class Callback(Keywords):
    """Override what you need.

    `run` (a `RunState`) tells how far the training is: `run.model`, `run.epoch` of `run.epochs` and `run.step` of
    `run.total_steps` (both count what is done), `run.history`, `run.batch_size`; `run.learning_rate` may be set.
    """

    every: int | None = None
    """How many steps lie between two calls of `step_end`, counted from the first of the run. None: it is never called."""

    def begin(self, run: RunState) -> bool | None:
        """Before the first step, or before the first that is left of a run that is gone on with; return True to end the
        training at once."""
        return None

    def chunk_end(self, run: RunState, losses: np.ndarray) -> None:
        """After a chunk of steps with these losses (steps,), float64, each from before its update. How long chunks are depends
        on the machine: what is changed here changes the results from run to run."""

    def step_end(self, run: RunState) -> bool | None:
        """After each `every` steps; return True to end the training."""
        return None

    def epoch_end(self, run: RunState, epoch: int, values: Mapping[str, float]) -> bool | None:
        """After an epoch (counted from 0) with what the history gets; return True to end the training."""
        return None

    def end(self, run: RunState, error: BaseException | None) -> None:
        """After the last step; `error` is what ended the training before its time: an exception, KeyboardInterrupt."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of this callback: numbers, strings, lists, None and NumPy arrays by name."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned; called before `begin`."""


class Progress(Callback):
    """A bar over all steps in a terminal or a notebook, and a line an epoch (at most about `lines` of them).

    Where standard error is neither, or tqdm is not installed, the lines alone are printed.
    """

    def __init__(self, lines: int = 10) -> None:
        self.lines = lines
        self.bar: Any = None

    def begin(self, run: RunState) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            return
        shown = sys.stderr.isatty() or in_notebook()
        total = run.total_steps
        self.bar = tqdm(total=total, initial=run.step, unit="step", leave=False, disable=not shown, dynamic_ncols=True)
        self.bar.set_postfix_str("preparing the step")

    def chunk_end(self, run: RunState, losses: np.ndarray) -> None:
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {losses[-1]:.4f}", refresh=False)
            self.bar.update(len(losses))

    def epoch_end(self, run: RunState, epoch: int, values: Mapping[str, float]) -> None:
        every = max(1, -(-run.epochs // self.lines))
        if (epoch + 1) % every == 0 or epoch in (0, run.epochs - 1):
            shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
            line = f"epoch {epoch + 1:>{len(str(run.epochs))}}/{run.epochs}  {shown}"
            print(line) if self.bar is None else self.bar.write(line, file=sys.stdout)

    def end(self, run: RunState, error: BaseException | None) -> None:
        if self.bar is not None:
            self.bar.close()


class EarlyStopping(Callback):
    """End the training when `monitor` has not become better for `patience` epochs, and put the best epoch's model back.

    `monitor`: a column of the history such as "val_loss". Better means lower by more than `min_delta`, or higher where `mode`
    is "max"; by default it is what the name says ("loss", "penalty", "mae", "mse": lower; "accuracy", "r2", "f1", "precision",
    "recall": higher). Put back is the whole snapshot: parameters, running statistics, the optimizer's state and the counters.
    After the training `best_epoch` (from 0), `best` (its value) and `stopped` are known.
    """

    def __init__(
        self,
        monitor: str = "",
        *,
        patience: int = 5,
        min_delta: float = 0.0,
        mode: str | None = None,
        restore_best: bool = True,
    ) -> None:
        self.patience = as_count("patience", patience, 0)
        if not 0.0 <= as_number(min_delta) < math.inf:
            raise InputError(f"min_delta: expected a number of at least 0, got {min_delta!r}")
        self.watched = Monitor("monitor", monitor, mode)
        self.min_delta, self.restore_best = float(min_delta), restore_best
        self._start()

    def _start(self) -> None:
        self.best, self.best_epoch, self.waited, self.stopped = math.nan, -1, 0, False
        self._snapshot: Snapshot | None = None
        self._restored = False

    def begin(self, run: RunState) -> bool:
        self.watched.check(run)
        if not self._restored:
            self._start()
        self._restored = False
        return self.stopped

    def epoch_end(self, run: RunState, epoch: int, values: Mapping[str, float]) -> bool:
        value = self.watched.value(values)
        if self.best_epoch < 0 or self.watched.is_better(value, self.best, self.min_delta):
            self.best, self.best_epoch, self.waited = value, epoch, 0
            if self.restore_best:
                self._snapshot = run.model.snapshot().on_host()
        else:
            self.waited += 1
        self.stopped = self.waited > 0 and self.waited >= self.patience
        return self.stopped

    def end(self, run: RunState, error: BaseException | None) -> None:
        if error is None and self._snapshot is not None:
            run.keep(self._snapshot)

    def state(self) -> dict[str, Any]:
        values = {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited, "stopped": self.stopped}
        return values if self._snapshot is None else {**values, **self._snapshot.to_config()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_epoch = float(state["best"]), int(state["best_epoch"])
        self.waited, self.stopped = int(state["waited"]), bool(state["stopped"])
        self._snapshot = Snapshot.from_config(state) if "optimizer" in state else None
        self._restored = True


class Checkpoint(Callback):
    """Write the model, its optimizer's state and how far the run is into `folder`, for `fit(resume=...)` to go on from.

    After every `epochs` epochs, every `steps` steps, or both; and when the training ends, also when Ctrl-C or an exception
    ended it (at the last whole step then). The newest `keep` files are kept. `best`: a column of the history such as
    "val_loss"; the model of its best epoch is kept as `best.safetensors` as well (`mode` as in `EarlyStopping`).

    While callbacks are told of an epoch, a first Ctrl-C waits until all of them know. A second one does not, and leaves the
    files that are there.

    A file that cannot be written (a full disk) ends the training with a FileError at the last whole step, or, with
    `on_error="warn"`, is warned of, and the training goes on; files that are there already stay whole either way. One process
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
        if not self._restored:
            self.best = math.nan
        self._restored = False
        self._written = None
        lock = self.folder.locked()
        lock.__enter__()
        newest = self.folder.newest_step()
        if not run.step and newest is not None and newest > run.model.counters.step:
            lock.__exit__(None, None, None)
            raise InputError(
                f"{self.folder.path} holds checkpoints of a training that went further, to step {newest}; go on with it "
                "(resume=True), or take another folder"
            )
        self._lock = lock

    def step_end(self, run: RunState) -> None:
        self._write(run)

    def epoch_end(self, run: RunState, epoch: int, values: Mapping[str, float]) -> None:
        if self.watched is not None:
            value = self.watched.value(values)
            if math.isnan(self.best) or self.watched.is_better(value, self.best, 0.0):
                self.best = value
                self._try(lambda: self.folder.write_best(run.model, run.record()))
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
        if run.place == self._written:
            return
        self._try(lambda: self.folder.write(run.model, run.record()))
        self._written = run.place

    def _try(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except FileError as error:
            if self.on_error == "raise":
                raise
            warn(f"no checkpoint was written: {error}", RuntimeWarning)


class LearningRate(Callback):
    """Set the learning rate of each epoch by hand, in the place of the optimizer's schedule.

    `rates`: a table {epoch: rate} (epochs from 0; a rate holds until the next entry), or a function of (epoch, rate before).
    """

    def __init__(self, rates: Mapping[int, float] | Callable[[int, float], float]) -> None:
        if isinstance(rates, Mapping):
            for epoch, rate in rates.items():
                as_count("rates: epoch", epoch, 0)
                _rate(rate)
        elif not callable(rates):
            raise KindError(f"rates: expected a dict of rates by epoch or a function, got {type(rates).__name__}")
        self.rates = rates
        self._epoch = -1
        self._restored = False

    def begin(self, run: RunState) -> None:
        if not self._restored:
            self._epoch = -1
        self._restored = False
        self._set(run, run.epoch)

    def epoch_end(self, run: RunState, epoch: int, values: Mapping[str, float]) -> None:
        if run.epoch < run.epochs:
            self._set(run, run.epoch)

    def _set(self, run: RunState, epoch: int) -> None:
        if epoch == self._epoch:  # gone on with in an epoch whose rate the run has kept
            return
        self._epoch = epoch
        if isinstance(self.rates, Mapping):
            if epoch in self.rates:
                run.learning_rate = _rate(self.rates[epoch])
        else:
            run.learning_rate = _rate(self.rates(epoch, run.learning_rate))

    def state(self) -> dict[str, Any]:
        return {"epoch": self._epoch}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._epoch = int(state["epoch"])
        self._restored = True


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

    Each row is on the disk when the next epoch begins. An existing file is replaced; a run that is gone on with keeps the rows
    of its finished epochs, and cells stay empty where the one or the other did not measure a quantity.
    """

    FIRST = ("epoch", "step", "seconds", "learning_rate")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file: TextIO | None = None
        self._columns: list[str] = []
        self._seconds = 0.0

    def begin(self, run: RunState) -> None:
        kept = self._kept(run.epoch) if run.epoch else []
        self._columns = kept[0] if kept else []
        self._seconds = float(kept[-1][2]) if len(kept) > 1 else 0.0
        self._started = perf_counter()
        self._rate = run.learning_rate
        self._open(kept)

    def _open(self, rows: list[list[str]]) -> None:
        """Go on behind these rows, which are on the disk at every moment."""
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
        heading, *rows = self._kept(epochs)
        self._columns = [*heading, *more]
        self._open([self._columns, *([*row, *[""] * len(more)] for row in rows)])

    def _kept(self, epochs: int) -> list[list[str]]:
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


LOWER = ("loss", "penalty", "mae", "mse", "log_loss")
HIGHER = ("accuracy", "r2", "f1", "precision", "recall")


class Monitor:
    """A column of the history, and which of its values are better."""

    def __init__(self, option: str, name: str, mode: str | None) -> None:
        if not isinstance(name, str) or not name:
            raise KindError(
                f'{option}: expected the name of a column of the history, such as "val_loss", "val_accuracy" or "loss", '
                f"got {name!r}"
            )
        if mode is None:
            bare = name.removeprefix("val_")
            if bare not in LOWER + HIGHER:
                near = nearest(name, [prefix + known for known in LOWER + HIGHER for prefix in ("", "val_")])
                if "did you mean" in near:
                    raise InputError(f"{option}: unknown {name!r}{near} A column of your own needs mode='min' or mode='max'")
                raise InputError(
                    f"{option} {name!r}: say whether a lower or a higher value is better: mode='min' or mode='max'"
                )
            mode = "min" if bare in LOWER else "max"
        if mode not in ("min", "max"):
            raise InputError(f"mode: unknown {mode!r}{nearest(mode, ('min', 'max'))}")
        self.option, self.name, self.sign = option, name, 1.0 if mode == "min" else -1.0

    def check(self, run: RunState) -> None:
        """Raise, before the first step, where no epoch will have the column. A callback of the user's own may add it."""
        kinds = [type(callback) for callback in run.callbacks if type(callback).epoch_end is not Callback.epoch_end]
        if all(kind.__module__.startswith("fastnn.") for kind in kinds):
            self._check(run.columns)

    def value(self, values: Mapping[str, float]) -> float:
        self._check(values)
        return float(values[self.name])

    def _check(self, columns: Collection[str]) -> None:
        if self.name in columns:
            return
        bare = self.name.removeprefix("val_")
        hint = nearest(self.name, columns)
        if bare != self.name and not any(column.startswith("val_") for column in columns):
            hint = "; give validation_data"
        elif bare != self.name and bare in METRICS and bare not in ("accuracy", "r2", "mae"):  # which come by themselves
            hint = f"; give metrics=[{bare!r}]"
        elif self.name == "penalty":
            hint = "; give l1 or l2"
        raise InputError(f"{self.option}: the history has no {self.name!r}{hint}")

    def is_better(self, value: float, best: float, least: float) -> bool:
        """Whether `value` is better than `best` by more than `least`; NaN never is, and everything else is better than NaN."""
        if math.isnan(value):
            return False
        return math.isnan(best) or self.sign * (best - value) > least


def _rate(value: Any) -> float:
    if not 0.0 <= as_number(value) < math.inf:
        raise InputError(f"learning_rate: expected a finite number of at least 0, got {value!r}")
    return float(value)


def in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel, where tqdm draws a bar of the page's own."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"
