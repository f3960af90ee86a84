"""What a training measured, for the programs that compare trainings: TensorBoard and MLflow."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastnn.callbacks.base import Callback, RunState
from fastnn.errors import PackageError
from fastnn.storage.atomic import unwritable


class TensorBoard(Callback):
    """Scalars for TensorBoard: of each epoch (from 1) the history's values and the `learning_rate` that it ended with, and with
    `steps=True` the loss of every step (from 1) as `step_loss`.

        model.fit(X, y, callbacks=[fastnn.callbacks.TensorBoard("runs/first")])     # tensorboard --logdir runs

    Each training writes a file of its own into the folder; one that is resumed goes on with the numbers of its epochs. NaN is
    left out. Raises PackageError without `tensorboard` (TensorFlow is not needed), and FileError for a folder that cannot be
    written.
    """

    def __init__(self, folder: str | os.PathLike[str], *, steps: bool = False) -> None:
        try:
            from tensorboard.summary import Writer
        except ImportError as error:
            raise PackageError.of("tensorboard", "TensorBoard", error) from error
        self.folder, self.steps, self._open = Path(folder), steps, Writer
        self._writer: Any = None
        self._rate = 0.0

    def begin(self, run: RunState) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._writer = self._open(str(self.folder))
        except OSError as error:
            raise unwritable(self.folder, error) from error
        self._rate = run.learning_rate

    def chunk_end(self, run: RunState, losses: np.ndarray) -> None:
        self._rate = run.learning_rate
        if self.steps:
            for step, loss in enumerate(losses.tolist(), run.step - len(losses) + 1):
                self._add("step_loss", loss, step)

    def epoch_end(self, run: RunState, epoch: int, values: Mapping[str, float]) -> None:
        for name, value in {**values, "learning_rate": self._rate}.items():
            self._add(name, value, epoch + 1)
        self._writer.flush()

    def _add(self, name: str, value: float, step: int) -> None:
        if not math.isnan(value):
            self._writer.add_scalar(name, value, step)

    def end(self, run: RunState, error: BaseException | None) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_writer": None}


class MLflow(Callback):
    """The history's values of each epoch (from 1) as metrics of an MLflow run: of the active one, or of one that begins and
    ends with the training, under the name `run_name`.

        mlflow.set_tracking_uri("sqlite:///mlflow.db")
        model.fit(X, y, callbacks=[fastnn.callbacks.MLflow("first")])

    A run of its own also gets the parameters optimizer, loss, batch_size, epochs, seed and device, and the status FAILED where
    an error ends the training, KILLED where Ctrl-C does. A training that is resumed from a checkpoint continues that run. NaN
    is left out. Raises PackageError without `mlflow`.
    """

    def __init__(self, run_name: str | None = None) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise PackageError.of("mlflow", "MLflow", error) from error
        self.run_name = run_name
        self.run_id: str | None = None
        """Of the last training; None before it."""
        self._mlflow: Any = mlflow
        self._own = self._restored = False

    def begin(self, run: RunState) -> None:
        active, continued = self._mlflow.active_run(), self.run_id if self._restored else None
        self._own, self._restored = active is None, False
        if active is None:
            active = self._mlflow.start_run(run_id=continued, run_name=None if continued else self.run_name)
        self.run_id = active.info.run_id
        if self._own and continued is None:
            model = run.model
            parameters = {"optimizer": repr(model.optimizer), "loss": model.loss.name, "batch_size": run.batch_size}
            parameters |= {"epochs": run.epochs, "seed": model.seed, "device": run.engine.name}
            self._mlflow.log_params(parameters)

    def epoch_end(self, run: RunState, epoch: int, values: Mapping[str, float]) -> None:
        known = {name: float(value) for name, value in values.items() if not math.isnan(value)}
        self._mlflow.log_metrics(known, step=epoch + 1, run_id=self.run_id)

    def end(self, run: RunState, error: BaseException | None) -> None:
        if self._own:
            self._own = False
            stopped = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            self._mlflow.end_run("FINISHED" if error is None else stopped)

    def state(self) -> dict[str, Any]:
        return {"run_id": self.run_id}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.run_id, self._restored = state["run_id"], True

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mlflow": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        import mlflow

        self.__dict__.update({**state, "_mlflow": mlflow})
