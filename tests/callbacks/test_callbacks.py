"""Callbacks: when they are called, what the library's own do, and what is left after one of them fails. See test_resume.py."""

from __future__ import annotations

import csv
import errno
import itertools
import math
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import ops, schedules
from fastnn.callbacks import Callback, Checkpoint, CSVLog, EarlyStopping, LearningRate, Progress, StepLosses
from fastnn.errors import FastnnError, FileError, InputError, InputTypeError
from fastnn.metrics import Metric
from fastnn.storage import atomic

N, BATCH, PER_EPOCH = 67, 16, 5
FULL = os.strerror(errno.ENOSPC)
"""What the system calls a disk that is full."""


def examples(n: int = N) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    return rng.standard_normal((n, 5)).astype("float32"), rng.integers(0, 3, n)


def network() -> fastnn.Sequential:
    return fastnn.Sequential([fastnn.Dense(8), fastnn.BatchNorm(), fastnn.Activation("relu"), fastnn.Dense(3)], seed=7)


def fit(*callbacks: Callback, model: fastnn.Sequential | None = None, **options: Any) -> fastnn.Sequential:
    model = model or network()
    model.fit(*examples(), callbacks=callbacks, **{"batch_size": BATCH, "epochs": 3, "verbose": 0, **options})
    return model


def bits(model: fastnn.Sequential) -> tuple[Any, ...]:
    """Everything that training changes."""
    state = model.optimizer_state
    assert state is not None
    arrays = {**model.weights, **state.slots}
    counts = (state.optimizer, state.updates, model.counters.step, model.counters.epoch)
    return {name: array.tobytes() for name, array in arrays.items()}, counts


class Values(Callback):
    """Puts values of its own into what the history gets, before the other callbacks of the list see them."""

    def __init__(self, name: str, *values: float) -> None:
        self.name, self.values = name, values

    def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
        values[self.name] = self.values[epoch]


class States(Callback):
    """The model after each epoch."""

    def begin(self, run: Any) -> None:
        self.seen: list[Any] = []

    def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
        self.seen.append(bits(run.model))


# --- a user's own ---------------------------------------------------------------------------------------------------


class Told(Callback):
    """Writes down what it is told, and fails where it is asked to."""

    def __init__(self, calls: list[Any], name: str = "", every: int | None = None, fail: tuple[str, int] = ("", 0)) -> None:
        self.calls, self.name, self.every, self.fail = calls, name, every, fail
        self.error = Stop("enough")

    def told(self, what: str, number: int) -> None:
        self.calls.append((self.name, what, number))
        if self.fail == (what, number):
            raise self.error

    def begin(self, run: Any) -> None:
        self.told("begin", run.step)

    def chunk_end(self, run: Any, losses: np.ndarray) -> None:
        assert losses.shape[0] >= 1
        assert np.isfinite(losses).all()
        if self.fail[0] == "chunk_end":
            self.told("chunk_end", 0)

    def step_end(self, run: Any) -> None:
        self.told("step_end", run.step)

    def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
        self.told("epoch_end", epoch)

    def end(self, run: Any, error: BaseException | None) -> None:
        self.given = error
        self.told("end", run.step)


class Stop(Exception):
    pass


def test_the_order_of_calls() -> None:
    calls: list[Any] = []
    fit(Told(calls, "a", every=4), Told(calls, "b", every=5), epochs=2)
    a, b = ([(what, number) for name, what, number in calls if name == mine] for mine in "ab")
    assert a == [("begin", 0), ("step_end", 4), ("epoch_end", 0), ("step_end", 8), ("epoch_end", 1), ("end", 10)]
    assert b == [("begin", 0), ("step_end", 5), ("epoch_end", 0), ("step_end", 10), ("epoch_end", 1), ("end", 10)]
    for what in ("begin", "epoch_end", "end"):
        assert [name for name, said, _ in calls if said == what] == ["a", "b"] * (2 if what == "epoch_end" else 1)


def test_checkpoints_come_last(tmp_path: Path) -> None:
    class Late(Callback):
        def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
            assert not list(tmp_path.glob(f"step-*{run.step}.safetensors"))

    fit(Checkpoint(tmp_path), Late())


@pytest.mark.parametrize("chunk", [1, 3, 4096])
@pytest.mark.parametrize("every", [1, 2, 5, 7, 100])
def test_every_n_steps(every: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastnn.training import chunks

    monkeypatch.setattr(chunks, "LOG_ROWS", chunk)
    calls: list[Any] = []
    expected = bits(fit())
    assert bits(fit(Told(calls, every=every))) == expected
    assert [number for _, what, number in calls if what == "step_end"] == list(range(every, 16, every))


@pytest.mark.parametrize("every", [0, -1, True, 1.5, "2"])
def test_every_is_checked(every: Any) -> None:
    told = Told([], every=every)
    with pytest.raises(InputError, match=r"Told.every: expected None or an integer"):
        fit(told)
    assert told.calls == []


def after(steps: int) -> tuple[Any, ...]:
    """The state after so many steps, by callbacks that do no harm."""
    calls: list[Any] = []

    class Until(Callback):
        every = 1

        def step_end(self, run: Any) -> bool:
            calls.append(bits(run.model))
            return bool(run.step == steps)

    fit(Until())
    return tuple(calls[-1])


@pytest.mark.parametrize(
    "fail", [("begin", 0), ("chunk_end", 0), ("step_end", 1), ("step_end", 7), ("epoch_end", 1), ("end", 3 * PER_EPOCH)]
)
def test_an_exception_stops_at_a_whole_step(fail: tuple[str, int]) -> None:
    calls: list[Any] = []
    failing = Told(calls, "b", every=1, fail=fail)
    around = [Told(calls, "a", every=1), failing, Told(calls, "c", every=1)]
    model = network()
    with pytest.raises(Stop) as caught:
        fit(*around, model=model)
    assert caught.value is failing.error, "it passes through as it is"
    ends = [name for name, what, _ in calls if what == "end"]
    assert ends == (["a", "b"] if fail[0] == "begin" else ["a", "b", "c"]), "everybody who began is told once"
    assert all(one.given is (None if fail[0] == "end" else failing.error) for one in around[: len(ends)])
    steps = {"begin": 0, "chunk_end": 1, "step_end": fail[1], "epoch_end": 2 * PER_EPOCH, "end": 3 * PER_EPOCH}[fail[0]]
    if not steps:
        assert not model.built
        return
    weights, counts = after(steps)
    found, counted = bits(model)
    assert found == weights
    assert counted[:3] == counts[:3]
    assert model.predict(examples()[0]).shape == (N,)
    fit(model=model, epochs=1)
    assert model.counters.step == steps + PER_EPOCH


def test_a_begin_that_fails_changes_nothing() -> None:
    model = fit(epochs=1)
    before = bits(model)
    with pytest.raises(Stop):
        fit(Told([], fail=("begin", 0)), model=model, optimizer=fastnn.Adam(0.5))
    assert bits(model) == before


def test_more_errors_at_the_end() -> None:
    """The first is raised, the others are warned of."""
    first, second = (Told([], fail=("end", 15)) for _ in range(2))
    with pytest.warns(RuntimeWarning, match=r"Told.end failed too: enough"), pytest.raises(Stop) as caught:
        fit(first, second)
    assert caught.value is first.error


@pytest.mark.parametrize("where", ["step_end", "epoch_end"])
def test_true_ends_the_training(where: str) -> None:
    class Enough(Callback):
        every = 7

    setattr(Enough, where, lambda self, *given: True)
    model = network()
    calls: list[Any] = []
    told = Told(calls)
    history = model.fit(*examples(), batch_size=BATCH, epochs=3, callbacks=[Enough(), told], verbose=0)
    steps, epochs = (7, 1) if where == "step_end" else (5, 1)
    assert (model.counters.step, len(history["loss"])) == (steps, epochs)
    assert told.given is None
    assert bits(model)[0] == after(steps)[0]


@pytest.mark.parametrize("first", [True, False])
def test_true_at_the_beginning_ends_the_training_at_once(first: bool) -> None:
    """Every callback hears of the beginning and of the end nevertheless."""

    class Enough(Callback):
        def begin(self, run: Any) -> bool:
            return True

    model = network()
    before = network().build(examples()[0].shape[1]).weights
    told = Told([])
    callbacks = [Enough(), told] if first else [told, Enough()]
    history = model.fit(*examples(), batch_size=BATCH, callbacks=callbacks, epochs=3, verbose=0)
    assert (model.counters.step, dict(history)) == (0, {})
    assert [what for _, what, _ in told.calls] == ["begin", "end"]
    assert told.given is None
    assert all(np.array_equal(value, before[name]) for name, value in model.weights.items())


def test_what_a_run_tells() -> None:
    class Look(Callback):
        every = 3

        def step_end(self, run: Any) -> None:
            assert (run.epoch, run.in_epoch) == divmod(run.step, PER_EPOCH) or run.in_epoch == PER_EPOCH
            assert (run.epochs, run.total_steps, run.batch_size) == (3, 15, BATCH)
            assert run.model.counters.step == run.step
            assert run.learning_rate == 0.25

        def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
            assert (run.epoch, run.in_epoch, run.step) == (epoch + 1, 0, PER_EPOCH * (epoch + 1))
            assert run.history["loss"][epoch] == values["loss"]

    fit(Look(), optimizer=fastnn.SGD(0.25))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Progress(), "expected a list of fastnn.callbacks.Callback objects, got Progress"),
        ([Progress], "Callback objects, got type"),
        ([None], "got NoneType"),
        (3, "got int"),
    ],
)
def test_callbacks_are_checked(given: Any, message: str) -> None:
    with pytest.raises(InputTypeError, match=message):
        network().fit(*examples(), callbacks=given, verbose=0)


# --- EarlyStopping --------------------------------------------------------------------------------------------------

NAN = math.nan


@pytest.mark.parametrize(
    ("values", "options", "best", "epochs"),
    [
        ((3, 2, 1, 2, 3, 4), {"patience": 2}, 2, 5),
        ((3, 2, 1, 2, 3, 4), {"patience": 1}, 2, 4),
        ((3, 2, 1, 2, 3, 4), {"patience": 0}, 2, 4),
        ((1, 2, 3, 2, 1, 0), {"patience": 2, "mode": "max"}, 2, 5),
        ((3, 3, 3, 3, 3, 3), {"patience": 3}, 0, 4),
        ((3, 2.9, 2.8, 2.7, 2.6, 2.6), {"patience": 3, "min_delta": 0.25}, 3, 6),
        ((3, 2.9, 2.8, 2.7, 2, 2), {"patience": 2, "min_delta": 0.5}, 0, 3),
        ((3, 2, 1, 0, -1, -2), {"patience": 1}, 5, 6),
        ((NAN, NAN, 5, NAN, 4, NAN), {"patience": 2}, 4, 6),
        ((NAN, NAN, NAN, NAN, 4, 3), {"patience": 2}, 0, 3),
        ((3, NAN, NAN, 1, 1, 1), {"patience": 2}, 0, 3),
    ],
)
def test_early_stopping(values: Sequence[float], options: dict[str, Any], best: int, epochs: int) -> None:
    mode = {"mode": "min", **options}
    stopping, states = EarlyStopping("mine", **mode), States()
    model = fit(Values("mine", *values), states, stopping, epochs=6)
    assert (stopping.best_epoch, len(states.seen)) == (best, epochs)
    assert stopping.best == values[best] or math.isnan(values[best])
    assert stopping.stopped == (epochs < 6 or stopping.waited >= mode["patience"] > 0)
    assert bits(model) == states.seen[best], "parameters, statistics, optimizer and counters"
    assert bits(fit(model=model, epochs=2)) == bits(fit(model=fit(epochs=best + 1), epochs=2)), "it continues from there"


def test_early_stopping_may_leave_the_last_model() -> None:
    states = States()
    model = fit(Values("mine", 1, 2, 3), states, EarlyStopping("mine", mode="min", patience=2, restore_best=False))
    assert bits(model) == states.seen[-1]


def test_early_stopping_knows_what_is_better() -> None:
    X, y = examples()
    for name in ("loss", "val_loss", "accuracy", "val_accuracy", "val_f1", "val_log_loss"):
        stopping = EarlyStopping(name, patience=10)
        history = network().fit(
            X,
            y,
            batch_size=BATCH,
            epochs=6,
            callbacks=[stopping],
            validation_data=(X, y),
            metrics=["f1", "log_loss"],
            verbose=0,
        )
        pick = min if "loss" in name else max
        assert stopping.best == pick(history[name]), name
        assert stopping.best_epoch == history[name].index(stopping.best)


def test_early_stopping_may_be_used_again() -> None:
    stopping = EarlyStopping("mine", patience=1, mode="min")
    first = bits(fit(Values("mine", 1, 0, 2), stopping))
    assert bits(fit(Values("mine", 3, 2, 4), stopping)) == first
    assert (stopping.best, stopping.best_epoch) == (2, 1)


def test_an_error_leaves_the_last_whole_step() -> None:
    """The best epoch is put back at the end only."""
    model = network()
    with pytest.raises(Stop):
        fit(EarlyStopping("loss", mode="max"), Told([], every=1, fail=("step_end", 7)), model=model)
    assert model.counters.step == 7


@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        ("val_loss", "the history has no 'val_loss'; give validation_data"),
        ("los", "the history has no 'los'.*'loss'"),
        ("penalty", "the history has no 'penalty'; give l1 or l2"),
    ],
)
def test_an_unknown_column(monitor: str, message: str, tmp_path: Path) -> None:
    """Before the first step, unless a callback of the user's own might add it."""
    for callback in (EarlyStopping(monitor, mode="min"), Checkpoint(tmp_path, best=monitor, mode="min")):
        model = network()
        with pytest.raises(InputError, match=message):
            fit(callback, model=model)
        assert not model.built
        with pytest.raises(InputError, match=message):
            fit(callback, Values("mine", 1), model=model)
        assert model.counters.epoch == 1


def columns(kind: str, **options: Any) -> list[str]:
    """The columns that a history may be asked for before the first step, which are those that it has."""

    class Asked(Callback):
        def begin(self, run: Any) -> None:
            self.columns = run.columns

    asked = Asked()
    X, y = examples()
    targets = y if kind == "classes" else X[:, :3]
    loss = "softmax_cross_entropy" if kind == "classes" else "quadratic"
    validation = {"validation_data": (X, targets)} if options.pop("validated", False) else {}
    run = {"loss": loss, "epochs": 1, "batch_size": BATCH, "callbacks": [asked], "verbose": 0}
    history = network().fit(X, targets, **run, **validation, **options)
    assert asked.columns == list(history)
    return asked.columns


def test_the_columns_of_a_history_are_known_before_the_first_step() -> None:
    assert columns("classes") == ["loss", "accuracy"]
    assert columns("classes", l2=0.1) == ["loss", "accuracy", "penalty"]
    assert columns("classes", validated=True, metrics=["f1"])[2:] == ["val_loss", "val_accuracy", "val_f1"]
    assert columns("values", validated=True, l1=0.1) == ["loss", "penalty", "val_loss", "val_r2", "val_mae"]


def test_a_metric_that_is_not_asked_for_is_no_column() -> None:
    X, y = examples()
    for callback, hint in ((EarlyStopping("val_f1"), r"give metrics=\['f1'\]"), (EarlyStopping("val_mae"), "'val_loss'")):
        with pytest.raises(InputError, match=f"the history has no .*{hint}"):
            fit(callback, validation_data=(X, y))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EarlyStopping("loss", patience=-1), "patience: expected an integer >= 0, got -1"),
        (lambda: EarlyStopping("loss", patience=1.5), "patience"),  # type: ignore[arg-type]
        (lambda: EarlyStopping("loss", patience=True), "patience"),
        (lambda: EarlyStopping("loss", min_delta=-1), "min_delta"),
        (lambda: EarlyStopping("loss", min_delta=NAN), "min_delta"),
        (lambda: EarlyStopping("mine"), "mode='min' or mode='max'"),
        (lambda: EarlyStopping("loss", mode="lower"), "mode: unknown 'lower'"),
        (lambda: EarlyStopping("val_los"), "monitor: unknown 'val_los'; did you mean 'val_loss'.*your own needs mode='min'"),
        (lambda: EarlyStopping("acc"), "did you mean 'accuracy'"),
        (lambda: EarlyStopping(), "monitor: expected the name of a column of the history, such as \"val_loss\".*got ''"),
        (lambda: EarlyStopping(""), "expected the name of a column"),
        (lambda: EarlyStopping(None), "expected the name of a column"),  # type: ignore[arg-type]
        (lambda: Checkpoint("x", steps=0), "steps: expected an integer >= 1, got 0"),
        (lambda: Checkpoint("x", epochs=0), "epochs"),
        (lambda: Checkpoint("x", keep=0), "keep"),
        (lambda: Checkpoint("x", on_error="wrn"), "on_error: unknown 'wrn'.*'warn'"),
        (lambda: Checkpoint("x", best="mine"), "best 'mine': .*mode='min' or mode='max'"),
        (lambda: Checkpoint("x", best="val_acuracy"), "best: unknown 'val_acuracy'; did you mean 'val_accuracy'"),
        (lambda: LearningRate(0.1), "expected a dict of rates by epoch or a function, got float"),  # type: ignore[arg-type]
        (lambda: LearningRate({-1: 0.1}), "epoch"),
        (lambda: LearningRate({0: -0.1}), "learning_rate"),
        (lambda: LearningRate({0: NAN}), "learning_rate"),
    ],
)
def test_callbacks_check_what_they_are_given(make: Any, message: str) -> None:
    with pytest.raises(FastnnError, match=message):
        make()


# --- Checkpoint -----------------------------------------------------------------------------------------------------


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.name[5:14]) for path in folder.glob("step-*.safetensors"))


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, [5, 10, 15]),
        ({"epochs": 2}, [10, 15]),
        ({"epochs": 7}, [15]),
        ({"steps": 4}, [4, 8, 12, 15]),
        ({"steps": 5}, [5, 10, 15]),
        ({"steps": 6, "epochs": 1}, [5, 6, 10, 12, 15]),
        ({"steps": 4, "keep": 2}, [12, 15]),
        ({"steps": 1, "keep": 1}, [15]),
    ],
)
def test_when_checkpoints_are_written(options: dict[str, Any], steps: list[int], tmp_path: Path) -> None:
    expected = bits(fit())
    assert bits(fit(Checkpoint(tmp_path, **{"keep": 100, **options}))) == expected, "they change nothing"
    assert steps_in(tmp_path) == steps
    assert {path.name for path in tmp_path.iterdir()} == {"lock", *(f"step-{step:09d}.safetensors" for step in steps)}
    for step in steps:
        loaded, (weights, counts) = fastnn.load(tmp_path / f"step-{step:09d}.safetensors"), after(step)
        assert (bits(loaded)[0], bits(loaded)[1][:3]) == (weights, counts[:3])


def test_the_best_one(tmp_path: Path) -> None:
    states = States()
    fit(Values("mine", 2, 5, 5, NAN, 4), states, Checkpoint(tmp_path, best="mine", mode="max"), epochs=5)
    assert bits(fastnn.load(tmp_path / "best.safetensors")) == states.seen[1]
    again = Checkpoint(tmp_path / "again", best="mine", mode="max")
    fit(Values("mine", 1, 1), states, again, epochs=2)
    assert bits(fastnn.load(again.folder.best)) == states.seen[0], "another run has its own"


def test_an_exception_is_written_at_its_step(tmp_path: Path) -> None:
    for fail in (("step_end", 8), ("chunk_end", 0)):
        with pytest.raises(Stop):
            fit(Checkpoint(tmp_path / fail[0], epochs=10), Told([], every=4, fail=fail))
    assert steps_in(tmp_path / "step_end") == [8]
    assert len(steps_in(tmp_path / "chunk_end")) == 1


def test_a_divergence_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(fastnn.DivergenceError):
        fit(Checkpoint(tmp_path, epochs=10), optimizer=fastnn.SGD(1e30), l2=1.0)
    assert steps_in(tmp_path) == []


def full(monkeypatch: pytest.MonkeyPatch, function: str, calls: int = 0) -> None:
    """The disk is full after so many calls of a function of the system."""
    real, made = getattr(os, function), [0]

    def refuse(*given: Any, **options: Any) -> Any:
        target = str(given[0]) if given else ""
        if function == "open" and not ("safetensors" in target and given[1] & os.O_CREAT):
            return real(*given, **options)
        made[0] += 1
        if made[0] > calls:
            raise OSError(errno.ENOSPC, FULL)
        return real(*given, **options)

    monkeypatch.setattr(atomic.os, function, refuse)


@pytest.mark.parametrize("function", ["open", "fsync", "replace"])
def test_a_full_disk_ends_the_training(function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, told = network(), Told([])
    with monkeypatch.context() as patched:
        full(patched, function, calls=2)
        with pytest.raises(FileError, match=f"cannot be written: .*{FULL}") as caught:
            fit(Checkpoint(tmp_path, steps=3), told, model=model)
    assert told.given is caught.value
    written = steps_in(tmp_path)
    step = 6 if function == "fsync" else 9  # a file and its folder are flushed
    assert model.counters.step == step
    assert bits(model)[0] == after(step)[0]
    assert step - 3 in written
    for kept in written:
        assert bits(fastnn.load(tmp_path / f"step-{kept:09d}.safetensors"))[0] == after(kept)[0]
    assert not list(tmp_path.glob(".*"))
    assert bits(fit(Checkpoint(tmp_path, steps=3), resume=True)) == bits(fit()), "with room again it continues"


@pytest.mark.parametrize("function", ["open", "fsync", "replace"])
def test_a_full_disk_may_be_warned_of(function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = bits(fit())
    fit(Checkpoint(tmp_path), epochs=1)
    kept = (tmp_path / "step-000000005.safetensors").read_bytes()
    full(monkeypatch, function)
    with pytest.warns(RuntimeWarning, match=f"no checkpoint was written: .*{FULL}") as caught:
        assert bits(fit(Checkpoint(tmp_path, epochs=2, on_error="warn"), resume=True)) == expected
    assert len(caught) == 2, "after epoch 2 and at the end"
    assert (tmp_path / "step-000000005.safetensors").read_bytes() == kept
    assert steps_in(tmp_path) == [5]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model = network()
    with pytest.raises(FileError, match="cannot be written"):
        fit(Checkpoint(tmp_path / "file" / "c"), model=model)
    with pytest.raises(FileError, match=r"file cannot be written: it is a file, and no folder$"):
        fit(Checkpoint(tmp_path / "file"), model=model)
    assert not model.built


@pytest.mark.slow
def test_one_process_writes_a_folder(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}\n"
        "from pathlib import Path\n"
        "from test_callbacks import *\n"
        "try:\n"
        f"    fit(Checkpoint({str(tmp_path)!r}))\n"
        "except FileError as error:\n"
        "    print(error)\n"
    )

    class Other(Callback):
        def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
            if epoch == 0:
                self.said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    other = Other()
    fit(other, Checkpoint(tmp_path))
    assert other.said == f"{tmp_path} is being written by process {os.getpid()}\n"
    assert steps_in(tmp_path) == [10, 15]


# --- LearningRate ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [fastnn.SGD, fastnn.Adam])
def test_a_table_of_rates(optimizer: Any) -> None:
    rates = {0: 0.1, 1: 0.03, 3: 0.007}
    expected = bits(fit(optimizer=optimizer(schedules.Table(rates)), epochs=5))
    assert bits(fit(LearningRate(rates), optimizer=optimizer(0.5), epochs=5)) == expected
    held = {0: 0.1, 1: 0.03, 2: 0.03, 3: 0.007, 4: 0.007}
    assert bits(fit(LearningRate(lambda epoch, rate: held[epoch]), optimizer=optimizer(0.5), epochs=5)) == expected
    assert bits(fit(LearningRate({0: 0.1}), optimizer=optimizer(0.5), epochs=5)) != expected


def test_a_function_of_the_rate_before() -> None:
    given: list[tuple[int, float]] = []

    def halve(epoch: int, rate: float) -> float:
        given.append((epoch, rate))
        return rate / 2

    callback = LearningRate(halve)
    for _ in range(2):
        given.clear()
        fit(callback, optimizer=fastnn.SGD(0.5))
        assert given == [(0, 0.5), (1, 0.25), (2, 0.125)], "each call of fit begins anew"


@pytest.mark.parametrize("rate", [-1.0, NAN, math.inf, "0.1", None])
def test_a_bad_rate(rate: Any) -> None:
    model = network()
    with pytest.raises(InputError, match="learning_rate: expected a finite number >= 0"):
        fit(LearningRate(lambda epoch, before: rate if epoch == 1 else before), model=model)
    assert model.counters.step == PER_EPOCH


def test_run_learning_rate_is_checked() -> None:
    class Set(Callback):
        def begin(self, run: Any) -> None:
            run.learning_rate = -1

    with pytest.raises(InputError, match="learning_rate"):
        fit(Set())


# --- CSVLog ---------------------------------------------------------------------------------------------------------


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("what was there before")
    X, y = examples()
    model = network()
    history = model.fit(
        X, y, batch_size=BATCH, epochs=3, callbacks=[CSVLog(path)], validation_data=(X, y), l2=1e-3, verbose=0,
        optimizer=fastnn.SGD(schedules.Exponential(0.1, 0.5)),
    )  # fmt: skip
    head, *body = rows(path)
    assert head == ["epoch", "step", "seconds", "learning_rate", *history]
    assert [(row[0], row[1]) for row in body] == [("1", "5"), ("2", "10"), ("3", "15")]
    assert all(0 <= float(a[2]) <= float(b[2]) for a, b in itertools.pairwise(body))
    for index, name in enumerate(history, start=4):
        assert [float(row[index]) for row in body] == history[name], "all digits"


def test_the_rates_of_a_log(tmp_path: Path) -> None:
    """The rate that the epoch was trained with."""
    path = tmp_path / "log.csv"
    fit(CSVLog(path), optimizer=fastnn.SGD(schedules.Table({0: 0.5, 1: 0.25, 2: 0.125})))
    assert [row[3] for row in rows(path)[1:]] == ["0.5", "0.25", "0.125"]


def test_each_row_is_there_when_the_next_epoch_begins(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"

    class Look(Callback):
        def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
            assert len(rows(path)) == epoch + 2

    fit(CSVLog(path), Look())


def test_a_resumed_log_keeps_its_rows(tmp_path: Path) -> None:
    path, folder = tmp_path / "log.csv", tmp_path / "c"
    with pytest.raises(Stop):
        fit(CSVLog(path), Checkpoint(folder, epochs=2), Told([], every=1, fail=("step_end", 12)))
    whole = rows(path)
    assert len(whole) == 3
    with path.open("a") as file:
        file.write("3,15,9")  # a row of an epoch that the run does not know of
    fit(CSVLog(path), Checkpoint(folder), resume=True)
    found = rows(path)
    assert found[:3] == whole
    assert [row[0] for row in found] == ["epoch", "1", "2", "3"]
    assert float(found[3][2]) >= float(found[2][2]), "seconds continue"
    for content in (b"", b"something else\n", b"\xff\xfe\n1\n"):
        path.write_bytes(content)
        fit(CSVLog(path), Checkpoint(folder), resume=True, epochs=4 if not content else 5)


def test_a_run_that_goes_on_with_other_measurements(tmp_path: Path) -> None:
    path, folder = tmp_path / "log.csv", tmp_path / "c"

    class Own(Callback):
        def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
            run.history.setdefault("own", []).append(float(epoch))

    def go_on(epochs: int, **options: Any) -> Any:
        callbacks = [Own(), CSVLog(path), Checkpoint(folder)]
        options |= {"batch_size": BATCH, "resume": True, "verbose": 0}
        with warnings.catch_warnings(action="ignore"):  # the validation data are others
            return network().fit(*examples(), epochs=epochs, callbacks=callbacks, **options)

    go_on(2)
    go_on(3, validation_data=examples(), metrics=["f1"])
    history = go_on(5)
    measured = {"val_loss": [2], "val_accuracy": [2], "val_f1": [2]}
    assert {name: len(column) for name, column in history.items()} == dict.fromkeys(history, 5)
    for name in ("loss", "accuracy", "own", *measured):
        finite = np.flatnonzero(np.isfinite(history[name])).tolist()
        assert finite == measured.get(name, [0, 1, 2, 3, 4]), name
    head, *body = rows(path)
    assert head[4:] == ["loss", "accuracy", *measured]
    for index, name in enumerate(head[4:], start=4):
        cells = [float(row[index] or "nan") for row in body]
        np.testing.assert_array_equal(cells, history[name], name)


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    model = network()
    for path in (tmp_path, tmp_path / "missing" / "log.csv"):
        with pytest.raises(FileError, match="cannot be written"):
            fit(CSVLog(path), model=model)
    assert not model.built


def test_a_log_that_cannot_be_widened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = tmp_path / "log.csv", tmp_path / "c"
    fit(CSVLog(path), Checkpoint(folder), epochs=1)

    class Full(Callback):
        def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
            def refuse(*arguments: Any) -> None:
                raise OSError(errno.ENOSPC, FULL)

            monkeypatch.setattr(atomic.os, "replace", refuse)

    with warnings.catch_warnings(action="ignore"), pytest.raises(FileError) as caught:  # the validation data are others
        fit(Full(), CSVLog(path), Checkpoint(folder), resume=True, epochs=2, validation_data=examples())
    assert str(caught.value) == f"{path} cannot be written: {FULL}"
    monkeypatch.undo()
    assert [row[0] for row in rows(path)] == ["epoch", "1"], "what was there is whole"


def test_a_log_on_a_full_disk(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    (tmp_path / "log.csv").symlink_to("/dev/full")
    model = network()
    with pytest.raises(FileError, match=f"log.csv cannot be written: .*{FULL}"):
        fit(CSVLog(tmp_path / "log.csv"), model=model)
    assert model.counters.step == PER_EPOCH


# --- Progress -------------------------------------------------------------------------------------------------------


def test_progress_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    history = network().fit(*examples(), batch_size=BATCH, epochs=3, verbose=1)
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert len(lines) == 3
    for epoch, line in enumerate(lines):
        assert line == f"epoch {epoch + 1}/3  loss {history['loss'][epoch]:.4f}  accuracy {history['accuracy'][epoch]:.4f}"
    assert said.err == ""


def test_progress_of_many_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    fit(Progress(lines=5), epochs=52)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["1/52", "11/52", "22/52", "33/52", "44/52", "52/52"]


def test_progress_in_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fit(verbose=1)
    said = capsys.readouterr()
    assert said.out.count("epoch ") == 3
    assert re.search(r"\b15\b", said.err), "of all steps"
    frames = said.err.split("\r")
    preparing = [index for index, frame in enumerate(frames) if "new kernels are compiled, once, and kept [00:" in frame]
    assert preparing, "which takes long the first time only"
    assert not any("kernels" in frame for frame in frames[max(preparing) + 1 :])
    assert any("loss 0." in frame or "loss 1." in frame for frame in frames[max(preparing) + 1 :])


def test_verbose_0_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    fit()
    assert capsys.readouterr() == ("", "")


# --- metrics of the user's own --------------------------------------------------------------------------------------


def wrong(y: np.ndarray, predictions: np.ndarray) -> float:
    return float((y != predictions).mean())


def certainty(outputs: Any, targets: Any) -> Any:
    """The mean of the largest logit of each row, in the vocabulary."""
    return ops.max(outputs, axis=1)


def test_metrics_of_functions() -> None:
    X, y = examples()
    model = network()
    metrics = [wrong, Metric("certainty", certainty, "outputs"), Metric("shares", lambda y, p: p.max(), "probabilities")]
    history = model.fit(X, y, batch_size=BATCH, epochs=2, validation_data=(X, y), metrics=metrics, verbose=0)
    assert list(history) == ["loss", "accuracy", "val_loss", "val_accuracy", "val_wrong", "val_certainty", "val_shares"]
    found: Mapping[str, float] = model.evaluate(X, y, metrics=metrics)
    assert {name: column[-1] for name, column in history.items() if name.startswith("val_")} == {
        f"val_{name}": value for name, value in found.items()
    }
    np.testing.assert_allclose(found["wrong"], 1 - found["accuracy"], rtol=1e-6)
    np.testing.assert_allclose(found["certainty"], model(X).max(1).mean(), rtol=1e-6)
    np.testing.assert_allclose(found["shares"], model.predict_proba(X).max(), rtol=1e-6)
    assert bits(model) == bits(fit(epochs=2)), "they change nothing"


def test_a_metric_that_fails() -> None:
    X, y = examples()
    error, told, model = Stop("cannot"), Told([]), network()

    def failing(y: np.ndarray, predictions: np.ndarray) -> float:
        raise error

    with pytest.raises(Stop) as caught:
        fit(told, model=model, validation_data=(X, y), metrics=[failing])
    assert caught.value is error
    assert told.given is error
    assert bits(model)[0] == after(PER_EPOCH)[0]
    with pytest.raises(Stop):
        model.evaluate(X, y, metrics=[failing])
    for answer, kind in ((None, InputTypeError), (math.inf, InputError), ("a", InputTypeError), (np.ones(2), InputTypeError)):
        with pytest.raises(kind, match="the metric odd: expected"):
            model.evaluate(X, y, metrics=[Metric("odd", lambda y, predictions, answer=answer: answer)])


@pytest.mark.parametrize("metrics", ["f1", ["f2"], [lambda y, p: 0.0], [wrong, wrong], [3]])
def test_bad_metrics(metrics: Any) -> None:
    model = network()
    with pytest.raises(FastnnError, match="metric"):
        fit(model=model, metrics=metrics)
    assert not model.built


# --- losses of steps ------------------------------------------------------------------------------------------------


def test_the_loss_of_every_step_is_kept(tmp_path: Path) -> None:
    X, y = examples()
    order = np.arange(len(X))
    expected, alone = [], network()
    for _ in range(2):
        for start in range(0, len(X), BATCH):
            rows = slice(start, start + BATCH)
            expected.append(alone.partial_fit(X[rows], y[rows])["loss"])
    kept = StepLosses()
    options: dict[str, Any] = {"batch_size": BATCH, "order": lambda epoch: order, "verbose": 0}
    network().fit(X, y, epochs=2, callbacks=[kept], **options)
    np.testing.assert_array_equal(kept.losses, expected)
    network().fit(X, y, epochs=1, callbacks=[StepLosses(), Checkpoint(tmp_path)], **options)
    for resumed, known in ((StepLosses(), expected), (kept, expected)):
        network().fit(X, y, epochs=2, callbacks=[resumed], resume=tmp_path, **options)
        np.testing.assert_array_equal(resumed.losses, known)


def test_losses_of_steps_that_nobody_wrote_down_are_nan(tmp_path: Path) -> None:
    X, y = examples()
    network().fit(X, y, epochs=1, batch_size=BATCH, verbose=0, callbacks=[Checkpoint(tmp_path)])
    late = StepLosses()
    network().fit(X, y, epochs=2, batch_size=BATCH, verbose=0, callbacks=[late], resume=tmp_path)
    np.testing.assert_array_equal(np.isnan(late.losses), np.arange(2 * PER_EPOCH) < PER_EPOCH)


class Sawtooth(fastnn.schedules.Schedule):
    """A schedule of one's own, which no file can name unless it is registered."""

    def rate_at(self, t: Any, length: int) -> Any:
        return 0.01 / (1.0 + t % 3)


@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_a_checkpoint_of_a_schedule_that_files_cannot_name(on_error: str, tmp_path: Path) -> None:
    """It is refused before the first step, with what registers the schedule; then it is written and read."""
    X, y = examples()
    model, optimizer = network(), fastnn.SGD(Sawtooth())
    options: dict[str, Any] = {"optimizer": optimizer, "batch_size": 16, "verbose": 0}
    with pytest.raises(InputError, match=r"Sawtooth cannot be stored.*Schedule.types\['Sawtooth'\] = Sawtooth"):
        model.fit(X, y, epochs=2, callbacks=[Checkpoint(tmp_path / "c", on_error=on_error)], **options)
    assert not model.built
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(fastnn.schedules.Schedule.types, "Sawtooth", Sawtooth)
        model.fit(X, y, epochs=2, callbacks=[Checkpoint(tmp_path / "c", on_error=on_error)], **options)
        again = network()
        again.fit(X, y, epochs=3, resume=tmp_path / "c", **options)
    assert again.counters.epoch == 3
