"""A training that is interrupted and resumed ends with the bits of one that never was: exceptions, Ctrl-C, kill -9."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import schedules
from fastnn.callbacks import Callback, Checkpoint, CSVLog, EarlyStopping, LearningRate, ReduceLROnPlateau
from fastnn.errors import FastnnError, FileError, FormatError, InputError
from fastnn.storage import archives

N, FEATURES, CLASSES, BATCH, EPOCHS = 67, 5, 3, 16, 3
PER_EPOCH = 5
STEPS = EPOCHS * PER_EPOCH
Outcome = dict[str, Any]


def examples(n: int = N, seed: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(3).standard_normal((CLASSES, FEATURES))
    y = rng.integers(0, CLASSES, n)
    return (centers[y] + rng.standard_normal((n, FEATURES))).astype("float32"), y


def network(norm: bool = False, dropout: float = 0.0, dtype: str = "float32", seed: int = 7) -> fastnn.Sequential:
    middle = [fastnn.BatchNorm()] if norm else []
    middle += [fastnn.Activation("tanh")]
    middle += [fastnn.Dropout(dropout)] if dropout else []
    return fastnn.Sequential([fastnn.Dense(8), *middle, fastnn.Dense(CLASSES)], seed=seed, dtype=dtype)


class Case:
    """A training that can be made again from its first step: a model, what `fit` gets, and callbacks."""

    def __init__(
        self,
        model: dict[str, Any] | None = None,
        callbacks: Callable[[Path], list[Callback]] = lambda folder: [],
        batches: bool = False,
        **options: Any,
    ) -> None:
        self.model, self.callbacks, self.batches, self.options = model or {}, callbacks, batches, options

    def train(self, folder: Path, *extra: Callback, **changed: Any) -> Outcome:
        """One call of `fit`, with the case's callbacks before `extra`; `folder` is theirs."""
        model = network(**self.model)
        return self.go_on(model, folder, *extra, **changed)

    def go_on(self, model: fastnn.Sequential, folder: Path, *extra: Callback, **changed: Any) -> Outcome:
        X, y = examples()
        data: tuple[Any, ...] = (X, y)
        options = {"epochs": EPOCHS, "verbose": 0, **self.options, **changed}
        if self.batches:
            data = ([(X[i : i + BATCH], y[i : i + BATCH]) for i in range(0, N, BATCH)],)
        else:
            options = {"batch_size": BATCH, **options}
        history = model.fit(*data, callbacks=[*self.callbacks(folder), *extra], **options)
        return outcome(model, history)


def outcome(model: fastnn.Sequential, history: dict[str, list[float]]) -> Outcome:
    """Everything that must agree."""
    state = model.optimizer_state
    assert state is not None
    return {
        "weights": {name: value.tobytes().hex() for name, value in model.weights.items()},
        "slots": {name: value.tobytes().hex() for name, value in state.slots.items()},
        "optimizer": [state.optimizer, state.updates],
        "counters": [model.counters.step, model.counters.epoch],
        "history": {name: list(map(repr, column)) for name, column in history.items()},
    }


X_VALIDATION = examples(40, 5)


def reverse(epoch: int) -> np.ndarray:
    """An order of the user's own, of another length in each epoch."""
    return np.random.default_rng(epoch).permutation(N)[: N - 20 * (epoch == 1)]


CASES = {
    "adam": Case(),
    "sgd, order": Case(optimizer=fastnn.SGD(0.1), order=reverse),
    "momentum, norm, shards": Case({"norm": True}, optimizer=fastnn.SGD(0.05, momentum=0.9), shard_rows=8),
    "nesterov, dropout, float64": Case(
        {"dropout": 0.3, "dtype": "float64"}, optimizer=fastnn.SGD(0.05, momentum=0.9, nesterov=True), l2=1e-2
    ),
    "nadam": Case(optimizer=fastnn.NAdam(0.01)),
    "an average, norm, dropout": Case({"norm": True, "dropout": 0.2}, optimizer=fastnn.Adam(0.01, ema=0.9)),
    "averaged momentum, penalties": Case(optimizer=fastnn.Momentum(0.3), l1=1e-3, l2=1e-3),
    "rmsprop, norm, dropout": Case({"norm": True, "dropout": 0.2}, optimizer=fastnn.RMSprop(0.01)),
    "adamw, clipped, weights": Case(
        {"norm": True}, optimizer=fastnn.AdamW(0.01, weight_decay=0.1, clip_norm=0.5), class_weight={0: 1.0, 1: 2.0, 2: 0.3}
    ),
    "validation, metrics": Case({"norm": True, "dropout": 0.2}, validation_data=X_VALIDATION, metrics=["f1", "log_loss"]),
    "early stopping": Case(
        {"dropout": 0.2}, lambda folder: [EarlyStopping("val_loss", patience=1)], optimizer=fastnn.Adam(0.3),
        validation_data=X_VALIDATION,
    ),
    "early stopping, not reached": Case(
        {"norm": True}, lambda folder: [EarlyStopping("accuracy", patience=2, min_delta=0.4)], validation_data=X_VALIDATION
    ),
    "rates of a table": Case({}, lambda folder: [LearningRate({0: 0.1, 2: 0.01})], optimizer=fastnn.SGD(0.5, momentum=0.5)),
    "rates of a function": Case({}, lambda folder: [LearningRate(lambda epoch, rate: rate * 0.5)]),
    "a plateau": Case(
        {"dropout": 0.2}, lambda folder: [ReduceLROnPlateau("val_loss", patience=0, cooldown=1, threshold=0.3)],
        optimizer=fastnn.Adam(0.3), validation_data=X_VALIDATION, epochs=6,
    ),
    "a schedule of steps": Case(optimizer=fastnn.Adam(schedules.Cosine(0.1, per="step"))),
    "a schedule of epochs": Case(optimizer=fastnn.SGD(schedules.Staircase(0.1, 0.5, 1))),
    "a log": Case({}, lambda folder: [CSVLog(folder / "log.csv")]),
    "mini-batches": Case({"norm": True, "dropout": 0.2}, batches=True),
    "mini-batches, a schedule": Case(
        batches=True, steps_per_epoch=PER_EPOCH, optimizer=fastnn.Adam(schedules.InverseTime(0.1, 0.1, per="step"))
    ),
}  # fmt: skip


class Cut(Exception):
    """What ends a training in these tests."""


class CutAt(Callback):
    every = 1

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def step_end(self, run: Any) -> None:
        if run.step in self.steps:
            raise Cut


class CutAfter(Callback):
    """Ends the training at the end of an epoch, or `before` that in its validation."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
        if epoch == self.epoch:
            raise Cut


class PauseAt(Callback):
    """Ends the training by returning True after a step, or at the end of an epoch."""

    every = 1

    def __init__(self, step: int = 0, epoch: int = -1) -> None:
        self.step, self.epoch = step, epoch

    def step_end(self, run: Any) -> bool:
        return bool(run.step == self.step)

    def epoch_end(self, run: Any, epoch: int, values: Any) -> bool:
        return epoch == self.epoch


@pytest.fixture
def shm() -> Iterator[Path]:
    """A folder in memory where the system has one: thousands of files are flushed."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


def log_rows(folder: Path) -> list[list[str]]:
    """A log without the column of seconds."""
    lines = (folder / "log.csv").read_text().splitlines()
    return [[v for i, v in enumerate(line.split(",")) if i != 2] for line in lines]


# --- interrupted by an exception ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "first", "stride"),
    [
        *((name, 1 + number % 3, 3) for number, name in enumerate(CASES)),
        *(pytest.param(name, 1, 1, marks=pytest.mark.slow) for name in CASES),
    ],
)
def test_interrupted_at_every_step(name: str, first: int, stride: int, shm: Path) -> None:
    """At every third one every day, the last of an epoch among them; the cases begin at the first three in turn."""
    case = CASES[name]
    expected = case.train(shm)
    last = expected["counters"][0] if "early" not in name else STEPS
    rows = log_rows(shm) if name == "a log" else []
    cut = 0
    for step in range(first, last + 1, stride):
        folder = shm / str(step)
        folder.mkdir()
        try:
            found = case.train(folder, CutAt(step), Checkpoint(folder / "c", epochs=100))
        except Cut:
            cut += 1
            assert [p.name for p in (folder / "c").glob("*.safetensors")] == [f"step-{step:09d}.safetensors"]
            found = case.train(folder, Checkpoint(folder / "c", epochs=100), resume=True)
        assert found == expected, step
        if rows:
            assert log_rows(folder) == rows
    assert cut > (2 * PER_EPOCH - 1) // stride


@pytest.mark.parametrize("name", ["early stopping, not reached", "rates of a function", "validation, metrics", "mini-batches"])
@pytest.mark.parametrize("first", [True, False])
def test_interrupted_at_the_end_of_every_epoch(name: str, first: bool, shm: Path) -> None:
    """By another callback, before or after those that keep something of the epoch have seen it."""
    case = CASES[name]
    expected = case.train(shm)
    for epoch in range(EPOCHS):
        folder = shm / str(epoch)
        cut = CutAfter(epoch)
        own = case.callbacks(folder)
        mixed = Case(
            case.model, lambda _, own=own, cut=cut: [cut, *own] if first else [*own, cut], case.batches, **case.options
        )
        with pytest.raises(Cut):
            mixed.train(folder, Checkpoint(folder, epochs=100))
        cut.epoch = -1
        assert mixed.train(folder, Checkpoint(folder, epochs=100), resume=True) == expected, epoch


def test_interrupted_in_validation(shm: Path) -> None:
    """By a metric, whose epoch is whole by then."""
    fail = [False]

    def share(y: np.ndarray, predictions: np.ndarray) -> float:
        if fail[0]:
            raise Cut
        return float((y == predictions).mean())

    case = Case({"norm": True}, validation_data=X_VALIDATION, metrics=[share])
    expected = case.train(shm)
    for epoch in range(EPOCHS):
        folder = shm / str(epoch)

        class Fail(Callback):
            every = PER_EPOCH

            def step_end(self, run: Any, epoch: int = epoch) -> None:
                fail[0] = run.epoch == epoch

        with pytest.raises(Cut):
            case.train(folder, Fail(), Checkpoint(folder, epochs=100))
        fail[0] = False
        assert case.train(folder, Checkpoint(folder, epochs=100), resume=True) == expected, epoch


@pytest.mark.parametrize(
    "name", ["rmsprop, norm, dropout", "early stopping, not reached", "rates of a function", "mini-batches"]
)
def test_interrupted_several_times(name: str, shm: Path) -> None:
    case = CASES[name]
    expected = case.train(shm)
    for step in (1, 2, 3, 5, 8, 10, 11, 13, 15):
        with pytest.raises(Cut):
            case.train(shm, CutAt(step), Checkpoint(shm / "c", steps=4), resume=True)
    assert case.train(shm, Checkpoint(shm / "c", steps=4), resume=True) == expected
    assert case.train(shm, Checkpoint(shm / "c", steps=4), resume=True) == expected, "of a finished run, which trains no more"


@pytest.mark.parametrize(
    "name", ["rmsprop, norm, dropout", "early stopping, not reached", "rates of a function", "mini-batches"]
)
def test_paused_several_times(name: str, shm: Path) -> None:
    """A run that a callback ended is resumed."""
    case = CASES[name]
    expected = case.train(shm)
    for pause in (PauseAt(1), PauseAt(PER_EPOCH), PauseAt(epoch=0), PauseAt(7), PauseAt(epoch=1), PauseAt(13)):
        found = case.train(shm, pause, Checkpoint(shm / "c"), resume=True)
        assert found != expected
    assert case.train(shm, Checkpoint(shm / "c"), resume=True) == expected


def test_what_early_stopping_ended_stays_ended(shm: Path) -> None:
    """Also where more epochs are asked for; another callback that pauses changes nothing of it."""
    case, more = CASES["early stopping"], EPOCHS + 3
    expected = case.train(shm, epochs=more)
    assert len(expected["history"]["loss"]) < more
    case.train(shm, PauseAt(7), Checkpoint(shm / "c"), epochs=more)
    for _ in range(3):
        assert case.train(shm, Checkpoint(shm / "c"), epochs=more, resume=True) == expected


@pytest.mark.parametrize("name", ["early stopping", "adam"])
def test_older_checkpoints_say_whether_the_run_was_stopped(name: str, shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is not asked any more: what ended the run says itself whether it stays ended."""
    from fastnn.training import resume

    def older(run: Any, record: Any = resume.checkpoint_state) -> Any:
        values, kept = record(run)
        return {**values, "stopped": run.stopped}, kept

    case = CASES[name]
    expected = case.train(shm)
    monkeypatch.setattr(resume, "checkpoint_state", older)
    case.train(shm, PauseAt(7), Checkpoint(shm / "c"))
    assert case.train(shm, Checkpoint(shm / "c"), resume=True) == expected
    assert case.train(shm, Checkpoint(shm / "c"), resume=True) == expected


@pytest.mark.parametrize("chunk", [1, 2, 4096])
def test_the_length_of_chunks_changes_nothing(chunk: int, shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastnn.training import chunks

    case = CASES["validation, metrics"]
    expected = case.train(shm)
    with pytest.raises(Cut):
        case.train(shm, CutAt(7), Checkpoint(shm / "c"))
    monkeypatch.setattr(chunks, "LOG_ROWS", chunk)
    assert case.train(shm, resume=shm / "c") == expected


@pytest.mark.parametrize("before", [None, 1], ids=["does not say", "says so"])
def test_a_run_of_another_order_of_sums_goes_on_with_a_notice(before: int | None, tmp_path: Path) -> None:
    """Versions that added the rows of a mini-batch in one row wrote no number down."""
    case = Case(callbacks=lambda folder: [Checkpoint(folder)])
    case.train(tmp_path, epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        case.train(tmp_path, resume=True)  # of this version: nothing is said
    (path,) = sorted(tmp_path.glob("*.safetensors"))[-1:]
    manifest, tensors = archives.read(path)
    run = {name: value for name, value in manifest["run"].items() if name != "arithmetic"}
    archives.write(path, {**manifest, "run": run if before is None else {**run, "arithmetic": before}}, tensors)
    with pytest.warns(UserWarning, match="adds the rows of a mini-batch in another order; the run goes on"):
        history = case.train(tmp_path, resume=path, epochs=EPOCHS + 1)
    assert history


def test_resume_names_a_file_a_folder_or_nothing(shm: Path) -> None:
    case = CASES["adam"]
    expected = case.train(shm)
    assert case.train(shm, Checkpoint(shm / "new"), resume=True) == expected, "an empty folder begins at the beginning"
    assert case.train(shm, Checkpoint(shm / "newer"), resume=False) == expected
    with pytest.raises(Cut):
        case.train(shm, CutAt(6), Checkpoint(shm / "c", steps=3))
    assert case.train(shm, resume=shm / "c") == expected
    assert case.train(shm, resume=str(shm / "c" / "step-000000003.safetensors")) == expected
    fewer = case.train(shm, Checkpoint(shm / "other"), resume=shm / "c")
    assert fewer == expected, "another folder is written into than is read"
    (shm / "empty").mkdir()
    for resume, message, kind in (
        (shm / "empty", "no checkpoint in the folder", InputError),
        (shm / "missing", "missing", FileError),
        (True, "there is none", InputError),
    ):
        with pytest.raises(kind, match=message):
            case.train(shm, resume=resume)


def test_a_model_of_no_run_is_refused(shm: Path) -> None:
    model = network()
    model.fit(*examples(), batch_size=BATCH, epochs=1, verbose=0)
    model.save(shm / "model.safetensors", optimizer=True)
    with pytest.raises(InputError, match="not how far its training was"):
        CASES["adam"].train(shm, resume=shm / "model.safetensors")


def test_more_epochs(shm: Path) -> None:
    for name in ("adam", "rates of a function", "validation, metrics", "mini-batches"):
        case, folder = CASES[name], shm / name
        expected = case.train(folder, epochs=EPOCHS + 2)
        case.train(folder, Checkpoint(folder))
        assert case.train(folder, Checkpoint(folder), epochs=EPOCHS + 2, resume=True) == expected, name
    fewer = CASES["adam"].train(shm / "adam", resume=shm / "adam", epochs=1)
    assert fewer["counters"] == [STEPS + 2 * PER_EPOCH, EPOCHS + 2], "there is nothing left to do"


def test_a_model_that_was_trained_before(shm: Path) -> None:
    """Two calls of fit in a row; the second one is interrupted."""
    case = CASES["validation, metrics"]
    models = [network(**case.model) for _ in range(2)]
    for model in models:
        case.go_on(model, shm, epochs=1)
    expected = case.go_on(models[0], shm)
    with pytest.raises(Cut):
        case.go_on(models[1], shm, CutAt(7), Checkpoint(shm / "c"))
    assert case.go_on(models[1], shm, Checkpoint(shm / "c"), resume=True) == expected
    assert case.train(shm, resume=shm / "c") == expected, "and in a fresh model"


# --- files and calls that do not fit --------------------------------------------------------------------------------


@pytest.fixture
def begun(shm: Path) -> Path:
    """A folder of a run that was interrupted after 8 steps, with files of 4 and 8."""
    with pytest.raises(Cut):
        CASES["adam"].train(shm, CutAt(8), Checkpoint(shm / "c", steps=4))
    return shm / "c"


def test_a_damaged_newest_file(begun: Path) -> None:
    expected = CASES["adam"].train(begun)
    newest = begun / "step-000000008.safetensors"
    content = bytearray(newest.read_bytes())
    content[-5] ^= 4
    newest.write_bytes(content)
    with pytest.warns(UserWarning, match=r"step-000000004.safetensors is used: .*step-000000008") as caught:
        assert CASES["adam"].train(begun, Checkpoint(begun, steps=4), resume=True) == expected
    assert len(caught) == 1
    for path in begun.glob("step-*"):
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(FormatError, match="holds no whole file"):
        CASES["adam"].train(begun, Checkpoint(begun, steps=4), resume=True)


def state_of(model: fastnn.Sequential) -> Any:
    if not model.built:
        return model.optimizer_state, model.counters.step, model.task, model.loss, model.optimizer
    state = model.optimizer_state
    slots = None if state is None else {name: slot.tobytes() for name, slot in state.slots.items()}
    return (
        {n: v.tobytes() for n, v in model.weights.items()},
        slots,
        model.counters.step,
        model.counters.epoch,
        model.optimizer,
    )


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch_size": 8}, "other batch size: it has 16, this call 8"),
        ({"loss": "sigmoid_cross_entropy"}, "other loss"),
        ({"optimizer": "sgd"}, "other optimizer: it has 'Adam', this call 'SGD'"),
        ({"order": reverse}, "other order"),
        ({"shard_rows": 4}, "other shard rows"),
        ({"sample_weight": np.ones(N)}, "other data"),
    ],
)
def test_another_call_is_refused(changed: dict[str, Any], message: str, trained: bool, begun: Path) -> None:
    case, model = CASES["adam"], network()
    if trained:
        case.go_on(model, begun, epochs=1)
    before, files = state_of(model), sorted((p.name, p.read_bytes()) for p in begun.glob("*.safetensors"))
    if changed.get("loss"):
        X, y = examples()
        changed = {**changed, "batch_size": BATCH, "epochs": EPOCHS, "verbose": 0}
        with pytest.raises(InputError, match=message):
            model.fit(X, np.eye(CLASSES)[y], resume=begun, **changed)
    else:
        with pytest.raises(InputError, match=message):
            case.go_on(model, begun, Checkpoint(begun), resume=True, **changed)
    assert repr(state_of(model)) == repr(before)
    assert sorted((p.name, p.read_bytes()) for p in begun.glob("*.safetensors")) == files


@pytest.mark.parametrize("row", [0, 33, N - 1])
@pytest.mark.parametrize("what", ["X", "y", "rows"])
def test_other_data_are_refused(row: int, what: str, begun: Path) -> None:
    X, y = examples()
    if what == "X":
        X[row, 2] += 1e-6
    elif what == "y":
        y[row] = (y[row] + 1) % CLASSES
    else:
        X, y = np.delete(X, row, 0), np.delete(y, row)
    model = network()
    with pytest.raises(InputError, match="a run with other data"):
        model.fit(X, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, resume=begun)
    assert not model.built


def test_another_architecture_or_seed_is_refused(begun: Path) -> None:
    for model, message in (
        (network(norm=True), "another architecture"),
        (network(dtype="float64"), "another architecture"),
        (network(seed=8), "seed"),
    ):
        with pytest.raises(InputError, match=message):
            CASES["adam"].go_on(model, begun, resume=begun)
        assert not model.built


def test_another_learning_rate_goes_on(begun: Path) -> None:
    case = CASES["adam"]
    model = network()
    with pytest.warns(UserWarning, match="continues with learning_rate 0.5 .it was 0.001") as caught:
        found = case.go_on(model, begun, optimizer=fastnn.Adam(0.5), resume=begun)
    assert len(caught) == 1
    assert found["counters"] == [STEPS, EPOCHS]
    expected = case.train(begun)
    assert found["weights"] != expected["weights"]
    assert found["history"]["loss"][0] == expected["history"]["loss"][0], "the epoch that was over before"
    with pytest.warns(UserWarning, match="continues with .*l2 0.25 .it was 0.0"):
        case.train(begun, l2=0.25, resume=begun)


def test_one_training_at_a_time_writes(begun: Path) -> None:
    other = begun / "other"

    class Second(Callback):
        every = 1

        def step_end(self, run: Any) -> None:
            with pytest.raises(FileError, match=f"is being written by process {os.getpid()}"):
                CASES["adam"].train(begun, Checkpoint(other))
            raise Cut

    with pytest.raises(Cut):
        CASES["adam"].train(begun, Second(), Checkpoint(other))
    CASES["adam"].train(begun, Checkpoint(other), resume=True)


def test_other_labels_are_other_data(tmp_path: Path) -> None:
    """The same class indices, of labels with other names."""
    inputs, y = X_VALIDATION[0], np.arange(len(X_VALIDATION[0])) % 3
    options: dict[str, Any] = {"batch_size": 8, "verbose": 0}
    network().fit(inputs, np.array(["a", "b", "c"])[y], epochs=1, callbacks=[Checkpoint(tmp_path)], **options)
    model = network()
    with pytest.raises(InputError, match="other data"):
        model.fit(inputs, np.array(["x", "y", "z"])[y], epochs=2, resume=tmp_path, **options)
    assert not model.built


def test_other_validation_data_go_on_with_a_warning(tmp_path: Path) -> None:
    X, y = X_VALIDATION
    options: dict[str, Any] = {"batch_size": 8, "verbose": 0}
    network().fit(X, y, epochs=1, validation_data=(X, y), callbacks=[Checkpoint(tmp_path)], **options)
    for validation, warned in (((X, y), False), ((X[:-1], y[:-1]), True), (None, True)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            network().fit(X, y, epochs=2, validation_data=validation, resume=tmp_path, **options)
        assert [str(each.message) for each in caught] == ["resume: continues with other validation data"] * warned


def test_a_new_training_leaves_what_went_further_alone(begun: Path) -> None:
    kept = {path.name: path.read_bytes() for path in begun.glob("step-*")}
    model = network()
    with pytest.raises(InputError, match=r"already contains checkpoints up to step \d+; pass resume=True"):
        model.fit(*X_VALIDATION, batch_size=8, epochs=1, verbose=0, callbacks=[Checkpoint(begun)])
    assert not model.built
    assert {path.name: path.read_bytes() for path in begun.glob("step-*")} == kept


# --- in other processes ---------------------------------------------------------------------------------------------

LONG = {
    "adam": Case({"norm": True, "dropout": 0.2}, epochs=30),
    "momentum, early stopping": Case(
        {"dropout": 0.2},
        lambda folder: [EarlyStopping("val_loss", patience=25), CSVLog(folder / "log.csv")],
        optimizer=fastnn.SGD(0.02, momentum=0.9), validation_data=X_VALIDATION, epochs=24,
    ),
    "a plateau": Case(
        {"dropout": 0.2}, lambda folder: [ReduceLROnPlateau("val_loss", patience=0, cooldown=1, threshold=0.3)],
        optimizer=fastnn.Adam(0.3), validation_data=X_VALIDATION, epochs=6,
    ),
    "a schedule of steps": Case(
        {"norm": True}, lambda folder: [LearningRate(lambda epoch, rate: rate * 0.9)], l2=1e-3, epochs=30, shard_rows=8
    ),
    "mini-batches": Case(
        {"dropout": 0.1}, batches=True, steps_per_epoch=PER_EPOCH, epochs=30,
        optimizer=fastnn.RMSprop(schedules.Cosine(0.01, per="step")),
    ),
}  # fmt: skip


def in_child(work: Callable[[], None], errors: Path) -> int:
    """The id of a forked child that does this and exits with 0, or writes what went wrong into a file."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        warnings.simplefilter("error")
        work()
        code = 0
    except BaseException:
        errors.write_text(traceback.format_exc())
    finally:
        os._exit(code)


def torn(folder: Path) -> list[str]:
    """Generations that cannot be read whole."""
    found = []
    for path in [*folder.glob("step-*.safetensors"), *folder.glob("best.safetensors")]:
        try:
            archives.read(path)
        except FastnnError as error:
            found.append(str(error))
    return found


def kill_and_resume(place: Path, kills: int, seed: int, how: int = signal.SIGKILL) -> dict[str, Any]:
    """Chains of about ten kills (SIGKILL, or SIGINT for Ctrl-C) at random moments of a training; what came of them."""
    draw = random.Random(seed)
    found: dict[str, Any] = {"kills": 0, "trainings": 0, "torn": [], "mismatches": [], "failed": [], "places": {}}
    begun = time.perf_counter()
    expected, seconds = {}, {}
    for name, case in LONG.items():
        (place / "whole").mkdir()
        case.train(place / "whole")  # has the kernels compiled
        started = time.perf_counter()
        with_files = case.train(place / "whole", Checkpoint(place / "whole", steps=2, best="loss"))
        seconds[name] = time.perf_counter() - started
        shutil.rmtree(place / "whole")
        (place / "whole").mkdir()
        expected[name] = case.train(place / "whole")
        assert with_files == expected[name]
        expected[name]["rows"] = log_rows(place / "whole") if "early" in name else []
        shutil.rmtree(place / "whole")
    for number in itertools.count():
        if found["kills"] >= kills:
            break
        name = list(LONG)[number % len(LONG)]
        case, folder = LONG[name], place / str(number)
        folder.mkdir()
        result, errors = folder / "result.json", folder / "errors.txt"

        def work(case: Case = case, folder: Path = folder, result: Path = result, number: int = number) -> None:
            checkpoint = Checkpoint(folder / "c", steps=1 + number % 3, epochs=1 + number % 2, best="loss")
            done = case.train(folder, checkpoint, resume=True)
            result.write_text(json.dumps(done))

        landed = 0
        while True:
            child = in_child(work, errors)
            if found["kills"] < kills and landed < 15:
                time.sleep(draw.uniform(0.05, 0.5) * seconds[name])
                os.kill(child, how)
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            found["torn"] += torn(folder / "c")
            interrupted = code == 1 and how == signal.SIGINT and "KeyboardInterrupt" in errors.read_text()
            if code == -signal.SIGKILL or interrupted:
                landed += 1
                found["kills"] += 1
                steps = sorted(folder.glob("c/step-*"))
                where = "before the first file" if not steps else f"{int(steps[-1].name[5:14]) // 30 * 30} steps"
                found["places"][where] = found["places"].get(where, 0) + 1
                left = any(folder.glob("c/.*.safetensors.*"))
                found["places"]["in a write"] = found["places"].get("in a write", 0) + left
                continue
            if code:
                found["failed"].append(errors.read_text())
            break
        found["trainings"] += 1
        if result.exists():
            done = json.loads(result.read_text())
            done["rows"] = log_rows(folder) if "early" in name else []
            wrong = [part for part in done if done[part] != expected[name][part]]
            if wrong:
                found["mismatches"].append(f"{name}, training {number}: {wrong}")
        shutil.rmtree(folder)
    found["seconds"] = round(time.perf_counter() - begun, 1)
    return found


def killing(place: Path, kills: int, seed: int, how: int = signal.SIGKILL) -> dict[str, Any]:
    """The same in a process of its own: not every library that other tests load survives a fork."""
    code = (
        f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}\n"
        "import json, pathlib, test_resume\n"
        f"print(json.dumps(test_resume.kill_and_resume(pathlib.Path({str(place)!r}), {kills}, {seed}, {int(how)})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(found)
    return found


def check(found: dict[str, Any], kills: int) -> None:
    assert found["failed"] == []
    assert found["torn"] == []
    assert found["mismatches"] == []
    assert found["kills"] == kills


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are POSIX")


@forks
@pytest.mark.slow
@pytest.mark.parametrize("kills", [int(os.environ.get("FASTNN_KILLS", "20"))])
def test_killed_and_resumed(kills: int, shm: Path) -> None:
    """`FASTNN_KILLS` says how many there are in the slow one."""
    check(killing(shm, kills, seed=1), kills)


@forks
@pytest.mark.slow
def test_killed_200_times_on_a_disk(tmp_path: Path) -> None:
    found = killing(tmp_path, 200, seed=2)
    check(found, 200)
    assert found["places"]["in a write"] > 10
    assert len(found["places"]) > 4, "kills land everywhere"


@forks
@pytest.mark.slow
@pytest.mark.parametrize("kills", [20, 200])
def test_ctrl_c_and_resumed(kills: int, shm: Path) -> None:
    """Ctrl-C comes between any two operations of Python."""
    check(killing(shm, kills, seed=3, how=signal.SIGINT), kills)


@pytest.mark.slow
def test_resumed_in_another_process(begun: Path) -> None:
    expected = CASES["adam"].train(begun)
    code = (
        f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}\n"
        "import json, pathlib, test_resume\n"
        f"print(json.dumps(test_resume.CASES['adam'].train(pathlib.Path({str(begun)!r}), resume={str(begun)!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected


@pytest.mark.parametrize(
    ("schedule", "jumps"),
    [(schedules.Cosine(0.25), True), (schedules.OneCycle(0.1), True), (schedules.Exponential(0.1), False), (0.1, False)],
    ids=str,
)
def test_a_schedule_over_more_epochs(schedule: Any, jumps: bool, tmp_path: Path) -> None:
    """The learning rate jumps where a run that ended is made longer: it is said, with both rates."""
    X, y = examples()
    options: dict[str, Any] = {"optimizer": fastnn.SGD(schedule), "batch_size": 16, "verbose": 0}
    network().fit(X, y, epochs=2, callbacks=[Checkpoint(tmp_path)], **options)
    again = partial(network().fit, X, y, epochs=4, resume=tmp_path, **options)
    if jumps:
        with pytest.warns(
            UserWarning, match=rf"{type(schedule).__name__} goes over 4 epochs now, and went over 2: the learning"
        ):
            again()
    else:
        again()  # a warning would be an error


def test_a_checkpoint_is_read_once(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a large model takes long to read."""
    from fastnn.storage import model_file

    opened: list[Any] = []
    real = archives.read
    monkeypatch.setattr(model_file.archives, "read", lambda file: opened.append(file) or real(file))
    CASES["adam"].train(begun, resume=begun)
    assert len(opened) == 1
