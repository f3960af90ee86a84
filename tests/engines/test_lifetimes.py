"""How long memory lives: what a model works with goes with its last owner, by counting references, before any garbage is
collected. Programs hold no arrays, and are left to the collector: symbols know their trace, and the trace its calls."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from cuda_on_host.runtime import HostRuntime

import fastnn
import fastnn.engines.host
from fastnn import ops
from fastnn.computation import Computation
from fastnn.data import feeds
from fastnn.data.feeds import Feed
from fastnn.engines.base import Instance, Passage
from fastnn.engines.cache import Instances
from fastnn.network.inference import Predictor
from fastnn.network.model import ModelState
from fastnn.training.one_step import TRAINED_BEFORE
from fastnn.training.step import SingleSteps, StepFunction
from fastnn.training.trainer import Trainer
from fastnn.tuning import train_together
from fastnn.tuning.together.interleaved import Interleaved
from fastnn.tuning.together.vectorized import _Vectorized
from fastnn_kernels.cuda.runtime import CudaError
from fastnn_kernels.memory import aligned_zeros

OWNERS = (
    ModelState, Instances, Instance, Passage, Predictor, Trainer, SingleSteps, StepFunction, Feed, Interleaved, _Vectorized,
    Computation,
)  # fmt: skip
"""What holds arrays, or what holds that."""
Y = np.arange(50) % 3
X = np.random.default_rng(6).normal(size=(len(Y), 4)).astype(np.float32)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[weakref.ref[Any]]]:
    """The owners that are made in a test, and the memory that programs on the host work in. No garbage is collected."""
    references: list[weakref.ref[Any]] = []

    def note(owner: type) -> None:
        make = vars(owner)["__init__"]

        def init(self: Any, *arguments: Any, **options: Any) -> None:
            references.append(weakref.ref(self))
            make(self, *arguments, **options)

        monkeypatch.setattr(owner, "__init__", init)

    def zeros(*arguments: Any) -> np.ndarray:
        array = aligned_zeros(*arguments)
        references.append(weakref.ref(array.base))
        return array

    for owner in OWNERS:
        note(owner)
    monkeypatch.setattr(fastnn.engines.host, "aligned_zeros", zeros)
    gc.disable()
    yield references
    gc.enable()


def alive(references: list[weakref.ref[Any]]) -> list[str]:
    return [type(each()).__name__ for each in references if each() is not None]


def network(seed: int = 0) -> fastnn.Sequential:
    layers = [fastnn.Dense(5), fastnn.BatchNorm(), fastnn.Activation("relu"), fastnn.Dropout(0.1), fastnn.Dense(3)]
    return fastnn.Sequential(layers, seed=seed)


class Stop(fastnn.callbacks.Callback):
    """Ends the training by an error."""

    every = 2

    def step_end(self, run: Any) -> None:
        raise RuntimeError("enough")


def fits(device: str) -> None:
    """Of all kinds, and what is asked of the model then."""
    model = network()
    options: dict[str, Any] = {"batch_size": 16, "epochs": 2, "device": device, "verbose": 0}
    stopping = fastnn.callbacks.EarlyStopping("val_loss")
    model.fit(X, Y, validation_split=0.2, metrics=["balanced_accuracy"], callbacks=[stopping], **options)
    model.fit([(X[:9], Y[:9]), (X[9:], Y[9:])], optimizer="adam", **options)
    for rows in (len(X), 7):
        model.predict(X[:rows])
    model.evaluate(X, Y)
    model.partial_fit(X, Y, device=device)
    for l2 in (0.0, 0.1):
        for _ in range(TRAINED_BEFORE + 2):
            model.fit(X, Y, l2=l2, **{**options, "batch_size": "all", "epochs": 1})


def failures(device: str) -> None:
    """Trainings that end with an error; the model is used afterwards."""
    model = network()
    with contextlib.suppress(fastnn.errors.DivergenceError):
        model.fit(X, Y, optimizer=fastnn.SGD(1e30), batch_size=16, epochs=2, device=device, verbose=0)
    with contextlib.suppress(RuntimeError):
        network().fit(X, Y, batch_size=4, epochs=1, callbacks=[Stop()], device=device, verbose=0)
    with contextlib.suppress(fastnn.errors.InputError):
        model.fit(X, Y[1:], batch_size=16, device=device, verbose=0)
    model.predict(X)


def steps(device: str) -> None:
    """The loop of one's own, and `partial_fit`, with mini-batches of two sizes."""
    step = network().build(4).training_step(device=device)
    model = network()
    for rows in (20, 30, 20):
        step(X[:rows], Y[:rows])
        model.partial_fit(X[:rows], Y[:rows], classes=[0, 1, 2], device=device)
    model.predict(X)


def together(device: str) -> None:
    """Several models at a time, in both ways."""
    for method in ("vectorized", "threads"):
        members = [fastnn.Sequential([fastnn.Dense(5, activation="tanh"), fastnn.Dense(3)], seed=seed) for seed in range(2)]
        train_together(members, X, Y, batch_size=16, epochs=1, method=method, device=device)


def recorded(device: str) -> None:
    """A computation of one's own."""
    product = fastnn.record(lambda x, w: ops.mean(x @ w), x=("B", 4), w=(4, 2), gradients="w")
    for rows in (20, 30):
        product.run({"x": X[:rows], "w": np.ones((4, 2), np.float32)}, device=device)


def test_what_is_held_is_found(made: list[weakref.ref[Any]]) -> None:
    model = network()
    model.fit(X, Y, batch_size=16, epochs=1, device="cpu", verbose=0)
    model.predict(X)
    assert {"Sequential", "Instances", "HostInstance", "InPlacePassage", "Predictor", "ndarray"} == set(alive(made))
    model.instances.clear()
    assert {"Sequential", "Instances", "Predictor"} == set(alive(made)) - {"ndarray"}
    del model
    assert not alive(made)


@pytest.mark.parametrize("use", [fits, failures, steps, together, recorded])
@pytest.mark.parametrize("device", ["numpy", "cpu", "cuda"])
def test_what_a_model_works_with_goes_with_it(
    device: str, use: Callable[[str], None], made: list[weakref.ref[Any]], request: pytest.FixtureRequest
) -> None:
    if device == "cuda":
        request.getfixturevalue("cuda_host")
    use(device)
    assert made
    assert not alive(made)


@pytest.mark.parametrize("share", [feeds.RESIDENT_SHARE, 0.0])
def test_neither_do_streams_and_errors_of_a_gpu_keep_it(
    share: float, made: list[weakref.ref[Any]], cuda_host: HostRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "RESIDENT_SHARE", share)
    fits("cuda")
    asked = len(cuda_host.asked)
    for n in range(5, asked, asked // 7):
        model = network()
        cuda_host.fail_at(n, CudaError("out of order"))
        with contextlib.suppress(fastnn.errors.DeviceError):
            model.fit(X, Y, batch_size=16, epochs=2, device="cuda", verbose=0)
        cuda_host.fail_at(None)
    del model
    assert not alive(made)


def test_nor_does_an_error_in_the_thread_that_reads(made: list[weakref.ref[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*arguments: Any) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(feeds, "take_rows", unreadable)
    with contextlib.suppress(OSError):
        network().fit(scipy.sparse.csr_array(X), Y, batch_size=16, epochs=1, device="cpu", verbose=0)
    assert made
    assert not alive(made)
