"""Kept instances: a model that is asked with data of many sizes, by many threads, continues for ever in bounded memory."""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastnn
from fastnn.engines.cache import KEPT_INSTANCES, Instances

FEATURES, CLASSES = 2, 3
SIZES = range(1, 61)


def data(rows: int = 64) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(1).normal(size=(rows, FEATURES)).astype(np.float32), np.arange(rows) % CLASSES


def network(seed: int = 0) -> fastnn.Sequential:
    return fastnn.Sequential([fastnn.Dense(4, activation="tanh"), fastnn.Dense(CLASSES)], seed=seed)


def kept(instances: Instances) -> list[tuple[Any, Any]]:
    assert all(instances._free.values()), "no list is empty"
    return [(key, item) for key, items in instances._free.items() for item in items]


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(["take", "give", "clear"]), st.integers(0, 2 * KEPT_INSTANCES)), max_size=200))
def test_whatever_is_taken_and_given_back(actions: list[tuple[str, int]]) -> None:
    """Against a plain list: the newest of a key is taken, and the oldest key goes first."""
    instances, numbers = Instances(), itertools.count()
    borrowed: list[Any] = []
    expected: list[tuple[int, int]] = []  # (key, item), by when their keys were used last
    for action, key in actions:
        if action == "take":
            borrowed.append(instances.take(key, lambda: next(numbers)))
            free = [item for k, item in expected if k == key]
            assert borrowed[-1].item == free[-1] if free else borrowed[-1].item not in dict(expected).values()
            expected = [pair for pair in expected if pair != (key, borrowed[-1].item)]
        elif action == "give" and borrowed:
            each = borrowed.pop(key % len(borrowed))
            each.__exit__()
            same = [pair for pair in expected if pair[0] == each.key]
            expected = [pair for pair in expected if pair[0] != each.key] + [*same, (each.key, each.item)]
            expected = expected[-KEPT_INSTANCES:] if len(expected) > KEPT_INSTANCES else expected
        elif action == "clear":
            assert instances.clear() == bool(expected)
            expected = []
        assert kept(instances) == expected


def test_more_sizes_of_mini_batches_than_are_kept() -> None:
    X, y = data()
    batches = [(X[:n], y[:n]) for n in range(2, KEPT_INSTANCES + 9)]
    model = network()
    for _ in range(3):
        model.fit(batches, epochs=1, device="cpu", verbose=0)
        assert model.predict(X).shape == (len(X),)
    assert len(kept(model.instances)) == KEPT_INSTANCES


def test_predictions_of_many_sizes_in_callbacks_and_between_fits() -> None:
    X, y = data()

    class Ask(fastnn.callbacks.Callback):
        every = 1

        def step_end(self, run: Any) -> None:
            seen.append(run.model.predict_proba(X[: 1 + run.step % 60]).shape)

    seen: list[tuple[int, int]] = []
    model = network()
    for start in (0, 24):
        model.fit(X, y, batch_size=1, epochs=1, callbacks=[Ask()], device="cpu", verbose=0)
        for rows in range(start, start + 40):
            assert model.predict(X[:rows]).shape == (rows,)
    assert seen == [(1 + step % 60, CLASSES) for step in range(1, len(X) + 1)] * 2
    assert len(kept(model.instances)) == KEPT_INSTANCES


class Heap(ctypes.Structure):
    """What glibc's `mallinfo2` says of the memory of this process."""

    names = ("arena", "ordblks", "smblks", "hblks", "large", "usmblks", "fsmblks", "used", "fordblks", "keepcost")
    _fields_ = [(name, ctypes.c_size_t) for name in names]


def held() -> tuple[int, int]:
    """Bytes that this process has got from `malloc`, large blocks included, and blocks that Python has for its objects.

    Memory that was freed and is kept for later is in neither, so that nothing depends on what ran before.
    """
    for _ in range(10):  # garbage may leave garbage
        if not gc.collect():
            break
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = Heap
    heap = ask()
    return heap.used + heap.large, sys.getallocatedblocks()


tells_what_is_held = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the system does not tell how much memory is in use"
)


@tells_what_is_held
def test_what_is_held_is_counted() -> None:
    before = held()
    arrays = [np.zeros(2**15, np.uint8) for _ in range(4)] + [np.zeros(2**20, np.uint8)]
    objects = [object() for _ in range(1000)]
    grown = [after - earlier for after, earlier in zip(held(), before, strict=True)]
    assert 2**17 + 2**20 <= grown[0] < 2**17 + 2**20 + 2**16
    assert 1000 <= grown[1] < 1100
    del arrays, objects


@pytest.mark.slow
@tells_what_is_held
def test_a_model_serves_requests_of_all_sizes_while_another_trains() -> None:
    """Predictions of 60 sizes by 8 threads of a model that does not change, and of one that is trained meanwhile."""
    X, y = data()
    still, moving = network(), network(1)
    still.fit(X, y, batch_size=16, epochs=1, device="cpu", verbose=0)
    moving.fit(X, y, batch_size=16, epochs=1, device="cpu", verbose=0)
    right = {rows: still.predict_proba(X[:rows]).tobytes() for rows in SIZES}
    threads, each = 8, int(os.environ.get("FASTNN_PREDICTIONS", "3200")) // 8
    over = threading.Event()
    fits: list[int] = []

    def train() -> int:
        fits = 0
        while not over.is_set():
            moving.fit(X, y, batch_size=1 + fits % 20, epochs=2, device="cpu", verbose=0)
            fits += 1
        return fits

    def ask(number: int, requests: int) -> int:
        for rows in np.random.default_rng(number).choice(SIZES, requests):
            assert still.predict_proba(X[:rows]).tobytes() == right[rows]
            shares = moving.predict_proba(X[:rows])
            assert np.allclose(shares.sum(axis=1), 1, atol=1e-5)
        return requests

    def serve(requests: int) -> None:
        over.clear()
        with ThreadPoolExecutor(threads + 1) as pool:
            training = pool.submit(train)
            try:
                asked = sum(pool.map(ask, range(threads), [requests] * threads))
            finally:
                over.set()
            fits.append(training.result())
        assert asked == threads * requests

    marks = []
    for requests in (each // 4, each - each // 4):
        serve(requests)
        assert len(kept(still.instances)) <= KEPT_INSTANCES
        assert len(kept(moving.instances)) <= KEPT_INSTANCES
        still.instances.clear()  # of which sizes some are kept is chance
        moving.instances.clear()
        marks.append(held())
    grown = [after - before for before, after in zip(*marks, strict=True)]
    assert sum(fits) > 3
    assert grown[0] < 2**16, "memory grows with the number of predictions"
    assert grown[1] < each // 2, "objects grow in number with that of predictions"
    assert still.predict_proba(X[:7]).tobytes() == right[7]
