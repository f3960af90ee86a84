"""Ctrl-C waits where a run and its model are not at the same place, so that a checkpoint is always left."""

from __future__ import annotations

import dis
import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn.callbacks import Callback, Checkpoint
from fastnn.checkpoints import Folder
from fastnn.network.state import State
from fastnn.training import one_step
from fastnn.training import trainer as trainer_module
from fastnn.training.interrupts import Interrupts
from fastnn.training.trainer import Trainer

X = np.random.default_rng(0).standard_normal((60, 4)).astype("float32")
Y = (X[:, 0] > 0).astype(np.int64)
EPOCHS, PER_EPOCH = 6, 3

posix = pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="no signals to raise")


@pytest.fixture(autouse=True)
def pythons_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "the handler is not there again"
    signal.signal(signal.SIGINT, before)


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def train(folder: Path, *callbacks: Callback, **options: Any) -> fastnn.Sequential:
    model = fastnn.Sequential([fastnn.Dense(3, activation="tanh"), fastnn.Dense(2)], seed=0)
    checkpoint = Checkpoint(folder, epochs=1000, best="loss")
    model.fit(X, Y, batch_size=20, epochs=EPOCHS, callbacks=[*callbacks, checkpoint], verbose=0, **options)
    return model


class Pressing(Callback):
    """Presses Ctrl-C so many times at the end of the fourth epoch."""

    def __init__(self, times: int) -> None:
        self.times, self.told = times, 0

    def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
        if epoch == 3:
            for _ in range(self.times):
                press()
        self.told += 1


def at_call(function: Callable[..., Any], call: int) -> Callable[..., Any]:
    """The function, with Ctrl-C in its `call`-th call."""
    calls = 0

    def pressed(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            press()
        return function(*arguments)

    return pressed


@posix
@pytest.mark.parametrize("place", ["told", "closing", "counting", "playing"])
def test_once_leaves_a_checkpoint_of_the_last_whole_step(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = train(tmp_path / "whole")
    told = Pressing(1 if place == "told" else 0)
    with monkeypatch.context() as patch:
        if place == "closing":
            patch.setattr(Trainer, "_pad_history", at_call(Trainer._pad_history, 4))
        elif place == "counting":
            patch.setattr(trainer_module, "accumulate", at_call(trainer_module.accumulate, 4))
        elif place == "playing":
            patch.setattr(Trainer, "prepare", at_call(Trainer.prepare, 4))
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run", told)
    latest = Folder(tmp_path / "run").latest()
    assert latest is not None
    step = fastnn.load(latest).counters.step
    if place in ("told", "closing"):
        assert (step, told.told) == (4 * PER_EPOCH, 4)
        assert (fastnn.load(Folder(tmp_path / "run").best).counters.step) == step, "the checkpoint was told as well"
    assert 0 < step < EPOCHS * PER_EPOCH
    resumed = train(tmp_path / "run", Pressing(0), resume=True)
    assert all(array.tobytes() == expected.weights[name].tobytes() for name, array in resumed.weights.items())


@posix
def test_twice_does_not_wait(tmp_path: Path) -> None:
    told = Pressing(2)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, told)
    assert told.told == 3
    assert Folder(tmp_path).latest() is None


@posix
def test_an_error_beside_it(tmp_path: Path) -> None:
    """What waited is answered, also where something else ends the run."""

    class Failing(Callback):
        def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
            press()
            raise ZeroDivisionError

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, Failing())
    latest = Folder(tmp_path).latest()
    assert latest is not None
    assert fastnn.load(latest).counters.step == PER_EPOCH


@posix
def test_a_handler_of_ones_own_is_asked(tmp_path: Path) -> None:
    asked: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
    try:
        model = train(tmp_path, Pressing(1))
    finally:
        signal.signal(signal.SIGINT, before)
    assert asked == [signal.SIGINT]
    assert model.counters.epoch == EPOCHS


@posix
def test_what_is_ignored_stays_so(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert train(tmp_path, Pressing(1)).counters.epoch == EPOCHS
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_train_without_signals(tmp_path: Path) -> None:
    made: list[fastnn.Sequential] = []
    thread = threading.Thread(target=lambda: made.append(train(tmp_path)))
    thread.start()
    thread.join()
    assert made[0].counters.epoch == EPOCHS


@posix
def test_one_that_waits_is_answered_at_the_end() -> None:
    interrupts = Interrupts()
    interrupts.__enter__()
    interrupts.hold()
    press()
    with pytest.raises(KeyboardInterrupt):
        interrupts.__exit__()


@posix
def test_a_handler_that_was_set_within_stays() -> None:
    asked: list[int] = []

    def own(number: int, frame: Any) -> None:
        asked.append(number)

    with Interrupts():
        signal.signal(signal.SIGINT, own)
    assert signal.getsignal(signal.SIGINT) is own
    press()
    assert asked == [signal.SIGINT]
    signal.signal(signal.SIGINT, signal.default_int_handler)


@posix
def test_in_the_first_step_it_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fastnn.Sequential([fastnn.Dense(2)], seed=0)
    advance = State.advance

    def pressed(*arguments: Any, **keywords: Any) -> None:
        monkeypatch.setattr(State, "advance", advance)
        press()

    monkeypatch.setattr(State, "advance", pressed)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, batch_size=20, epochs=1, verbose=0, device="cpu")
    assert (model.built, model.task, model.optimizer, model.loss) == (False, None, None, None)
    model.fit(X, Y, batch_size=20, epochs=1, verbose=0, device="cpu")


# --- anything may come anywhere ---------------------------------------------------------------------------------------

PLACES = ("fastnn/training/", "fastnn/network/")


class Stop(BaseException):
    """Comes where nobody expects it."""


@functools.cache
def places(code: Any) -> tuple[dict[int, bool], dict[int, int | None]]:
    """Of each instruction, whether Python looks for signals behind it, and which handler catches what is raised there."""
    instructions = dis.Bytecode(code)
    looks = {each.offset: each.opname.startswith(("CALL", "RESUME", "JUMP_BACKWARD")) for each in instructions}
    entries = instructions.exception_entries
    return looks, {place: next((e.target for e in entries if e.start <= place < e.end), None) for place in looks}


def stopping_at(number: int, told: list[int]) -> Callable[..., Any]:
    """A trace function that raises `Stop` once, where Python looks for signals for the time with this number: behind calls and
    jumps back, and at the beginning of functions. `told` counts them.

    It raises at the instruction after. Where another handler, or none, would catch it there, it passes.
    """

    def watch_function(frame: Any) -> Callable[..., Any]:
        looks_behind, handlers = places(frame.f_code)
        before = 0

        def watch(_: Any, event: str, argument: Any) -> Any:
            nonlocal before
            if event == "opcode":
                looks = looks_behind[before] and handlers[before] == handlers[frame.f_lasti]
                before = frame.f_lasti
                told[0] += looks
                if looks and told[0] == number:
                    raise Stop
            return watch

        return watch

    def enter(frame: Any, event: str, argument: Any) -> Any:
        if not any(place in frame.f_code.co_filename.replace("\\", "/") for place in PLACES):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return watch_function(frame)

    return enter


def stopped(number: int, call: Callable[[], Any]) -> int:
    """Make the call, with `Stop` at this place; returns how many there were."""
    told, before = [0], sys.gettrace()
    sys.settrace(stopping_at(number, told))
    try:
        call()
    except (Stop, fastnn.DivergenceError):
        pass
    finally:
        sys.settrace(before)
    return told[0]


OWN = np.eye(2, dtype="float32")[Y]


def by_fit(model: fastnn.Sequential, options: dict[str, Any]) -> Callable[[int], object]:
    """A function that makes so many steps, each on the same mini-batch."""
    return lambda count: model.fit(
        X, OWN, batch_size=20, epochs=1, order=lambda _: np.arange(20 * count) % 20, verbose=0, **options
    )


def by_fits(model: fastnn.Sequential, options: dict[str, Any]) -> Callable[[int], object]:
    """The same by a call for each step, of which those behind the second make single steps."""
    options = {**options, "loss": "quadratic", "batch_size": 20, "epochs": 1, "verbose": 0}
    return lambda count: [model.fit(X[:20], Y[:20], **options) for _ in range(count)]


def by_partial_fit(model: fastnn.Sequential, options: dict[str, Any]) -> Callable[[int], object]:
    return lambda count: [model.partial_fit(X[:20], OWN[:20], **options) for _ in range(count)]


def by_training_step(model: fastnn.Sequential, options: dict[str, Any]) -> Callable[[int], object]:
    step = model.training_step(batch_size=20, **options)
    return lambda count: [step(X[:20], OWN[:20]) for _ in range(count)]


@pytest.mark.parametrize("steps_by", [by_fit, by_fits, by_partial_fit, by_training_step])
@pytest.mark.parametrize("device", ["cpu", "numpy"])
@pytest.mark.parametrize("rate", [0.1, 1e5], ids=["finite", "diverging"])
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_whole_steps_are_left_wherever_it_ends(
    steps_by: Callable[..., Any], device: str, rate: float, every: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where rows kept of earlier steps are played again on the way back."""
    monkeypatch.setattr(one_step, "TRAINED_BEFORE", 1)
    model = fastnn.Sequential([fastnn.Dense(3, activation="relu"), fastnn.Dense(2)], seed=0).build(4)
    optimizer = fastnn.SGD(rate, momentum=0.9)
    steps = steps_by(model, {"optimizer": optimizer, "loss": "mean_squared_error", "device": device, "threads": 1})

    def look() -> bytes:
        return b"".join(array.tobytes() for array in model.snapshot().arrays.values())

    def made() -> int:
        kept = model.optimizer_state
        assert model.counters.step == (0 if kept is None else kept.updates)
        return model.counters.step

    fresh, expected = model.snapshot(), {0: look()}
    for count in range(1, 5):
        model.restore(fresh)
        try:
            steps(count)
        except fastnn.DivergenceError:
            assert made() == 2, "the third step diverges"
        expected[made()] = look()
    assert expected.keys() == set(range(5 if rate < 1 else 3))
    model.restore(fresh)
    steps(1)
    begun = model.snapshot()

    def calls() -> None:
        if rate < 1:
            steps(1)
        steps(2)

    number, ended, seen = 1, False, set()
    while not ended:
        model.restore(begun)
        steps(1)  # so that each time as much is kept of the step before
        model.restore(begun)
        ended = stopped(number, calls) < number
        assert look() == expected[made()], number
        seen.add(made())
        number += 1 if every else 7
    assert number > 100
    assert seen >= ({1, 2, 4} if rate < 1 else {1, 2})
