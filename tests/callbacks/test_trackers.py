"""TensorBoard's and MLflow's own readers find what was trained."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn.callbacks import Callback, Checkpoint, MLflow, TensorBoard
from fastnn.errors import FileError

X = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


def train(*callbacks: Callback, **options: Any) -> Any:
    model = fastnn.Sequential([fastnn.Dense(2)], seed=0)
    given = {"epochs": 3, "batch_size": 20, "validation_data": (X, Y), "verbose": 0, **options}
    return model.fit(X, Y, callbacks=callbacks, **given)


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard reads: by name, the value of each step."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()["tensors"]
    return {tag: {event.step: event.tensor_proto.float_val[0] for event in events.Tensors(tag)} for tag in tags}


class Raising(Callback):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
        if epoch == 1:
            raise self.error


@pytest.mark.filterwarnings("ignore")  # of libraries that TensorBoard imports
class TestTensorBoard:
    @pytest.fixture(autouse=True)
    def _needs(self) -> None:
        pytest.importorskip("tensorboard.summary")

    def test_epochs_and_steps(self, tmp_path: Path) -> None:
        losses = fastnn.callbacks.StepLosses()
        schedule = fastnn.schedules.Exponential(0.1, 0.5)
        board = TensorBoard(tmp_path / "a" / "b", steps=True)
        history = train(board, losses, optimizer=fastnn.SGD(schedule))
        found = scalars(tmp_path / "a" / "b")
        assert set(found) == {*history, "learning_rate", "step_loss"}
        for name, values in history.items():
            assert list(found[name]) == [1, 2, 3]
            np.testing.assert_allclose(list(found[name].values()), values, rtol=1e-6)
        np.testing.assert_allclose(list(found["step_loss"].values()), losses.losses, rtol=1e-6)
        assert list(found["step_loss"]) == list(range(1, 10))
        assert len(set(found["learning_rate"].values())) == 3

    def test_a_run_that_goes_on(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError):
            train(TensorBoard(tmp_path / "board"), Checkpoint(tmp_path / "run", epochs=1), Raising(ZeroDivisionError()))
        whole = train(TensorBoard(tmp_path / "board"), Checkpoint(tmp_path / "run", epochs=1), resume=True)
        found = scalars(tmp_path / "board")["loss"]
        np.testing.assert_allclose([found[epoch] for epoch in (1, 2, 3)], whole["loss"], rtol=1e-6)

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("", encoding="utf-8")
        with pytest.raises(FileError, match="cannot be written"):
            train(TensorBoard(tmp_path / "file"))

    def test_it_can_be_pickled(self, tmp_path: Path) -> None:
        board = pickle.loads(pickle.dumps(TensorBoard(tmp_path)))
        train(board)
        assert set(scalars(tmp_path)["loss"]) == {1, 2, 3}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
class TestMLflow:
    @pytest.fixture(autouse=True)
    def mlflow(self, tmp_path: Path) -> Iterator[Any]:
        pytest.importorskip("sqlalchemy")
        mlflow = pytest.importorskip("mlflow")
        mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
        mlflow.set_experiment("tests")
        yield mlflow
        while mlflow.active_run() is not None:
            mlflow.end_run()

    @staticmethod
    def metric(mlflow: Any, run_id: str | None, name: str) -> list[tuple[int, float]]:
        return [(each.step, each.value) for each in mlflow.MlflowClient().get_metric_history(run_id, name)]

    def test_a_run_of_its_own_and_an_active_one(self, mlflow: Any) -> None:
        tracker = MLflow("first")
        history = train(tracker)
        assert mlflow.active_run() is None
        found = mlflow.MlflowClient().get_run(tracker.run_id)
        assert (found.info.run_name, found.info.status) == ("first", "FINISHED")
        assert found.data.params["batch_size"] == "20"
        assert found.data.params["optimizer"].startswith("Adam(")
        for name, values in history.items():
            assert self.metric(mlflow, tracker.run_id, name) == list(enumerate(values, 1))
        with mlflow.start_run() as run:
            train(tracker)
            train(tracker, epochs=1)
            assert mlflow.active_run() is not None
        assert tracker.run_id == run.info.run_id
        assert not mlflow.MlflowClient().get_run(run.info.run_id).data.params

    def test_how_it_ends_and_goes_on(self, mlflow: Any, tmp_path: Path) -> None:
        for error, status in ((ZeroDivisionError(), "FAILED"), (KeyboardInterrupt(), "KILLED")):
            tracker, checkpoint = MLflow(), Checkpoint(tmp_path / status, epochs=1)
            with pytest.raises(type(error)):
                train(Raising(error), tracker, checkpoint)
            assert mlflow.MlflowClient().get_run(tracker.run_id).info.status == status
            again = MLflow()
            history = train(again, Checkpoint(tmp_path / status, epochs=1), resume=True)
            assert again.run_id == tracker.run_id
            assert mlflow.MlflowClient().get_run(again.run_id).info.status == "FINISHED"
            steps = dict(self.metric(mlflow, again.run_id, "loss"))
            assert steps == dict(enumerate(history["loss"], 1))

    def test_it_can_be_pickled(self) -> None:
        assert pickle.loads(pickle.dumps(MLflow("name"))).run_name == "name"


def test_nan_is_left_out() -> None:
    class Writer:
        added: list[str] = []  # noqa: RUF012 - of a single test

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.added.append(name)

        def flush(self) -> None:
            pass

    board = TensorBoard.__new__(TensorBoard)
    board._writer, board._rate = Writer(), 0.1
    board.epoch_end(None, 0, {"loss": 1.0, "val_loss": math.nan})  # type: ignore[arg-type]
    assert Writer.added == ["loss", "learning_rate"]
