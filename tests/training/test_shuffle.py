"""`fit(shuffle=False)` visits the rows in the order that they have, on every way to the device, and says what excludes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainings import blobs, classifier, digest

import fastnn
from fastnn.callbacks import Checkpoint, StepLosses
from fastnn.data import inputs
from fastnn.datasets import split
from fastnn.errors import FastnnError, InputError

N = 100
OPTIONS: dict[str, Any] = {"epochs": 3, "batch_size": 32, "verbose": 0}


def trained(X: Any = None, y: Any = None, **options: Any) -> str:
    model = classifier()
    data = blobs(N)
    model.fit(data[0] if X is None else X, data[1] if y is None else y, **{**OPTIONS, **options})
    return digest(model)


@pytest.mark.parametrize("device", ["cpu", "numpy"])
@pytest.mark.parametrize("options", [{}, {"batch_size": 1}, {"batch_size": "all"}, {"batch_size": 7, "l2": 0.1}])
def test_it_is_the_order_of_the_rows(options: dict[str, Any], device: str) -> None:
    options = {**options, "device": device}
    assert trained(shuffle=False, **options) == trained(order=lambda epoch: range(N), **options)
    assert trained(shuffle=True, **options) == trained(**options)
    assert trained(shuffle=False, **options) != trained(**options) or options.get("batch_size") == "all"


def test_it_is_that_of_the_same_mini_batches() -> None:
    X, y = blobs(N)
    batches = [(X[i : i + 32], y[i : i + 32]) for i in range(0, N, 32)]
    model = classifier()
    model.fit(batches, epochs=3, verbose=0)
    assert trained(shuffle=False) == digest(model)


def test_a_memory_map_that_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "LARGE_BYTES", 100)
    np.save(tmp_path / "x.npy", blobs(N)[0])
    assert trained(np.load(tmp_path / "x.npy", mmap_mode="r"), shuffle=False) == trained(shuffle=False)


def test_rows_that_are_held_back_are_left_out_of_the_order() -> None:
    X, y = blobs(N)
    rows = np.sort(split(np.arange(N), sizes=(0.7, 0.3), seed=0, stratify=y)[0])
    assert trained(shuffle=False, validation_split=0.3) == trained(X[rows], y[rows], shuffle=False)


def test_the_losses_of_the_steps_are_those_of_the_rows_in_turn() -> None:
    X, y = blobs(N)
    losses, model = StepLosses(), classifier()
    history = model.fit(X, y, shuffle=False, optimizer=fastnn.SGD(0.0), callbacks=[losses], **{**OPTIONS, "epochs": 2})
    expected = [model.evaluate(X[i : i + 32], y[i : i + 32])["loss"] for i in range(0, N, 32)]
    np.testing.assert_allclose(losses.losses, expected * 2, rtol=1e-6)
    assert history["loss"][0] == history["loss"][1]


def test_it_is_kept_when_a_run_is_resumed(tmp_path: Path) -> None:
    X, y = blobs(N)
    first, second = classifier(), classifier()
    first.fit(X, y, shuffle=False, callbacks=[Checkpoint(tmp_path)], **{**OPTIONS, "epochs": 2})
    with pytest.raises(InputError, match="other order: it has 'of the rows', this call 'shuffled'"):
        second.fit(X, y, resume=tmp_path, **OPTIONS)
    second.fit(X, y, shuffle=False, resume=tmp_path, **OPTIONS)
    assert digest(second) == trained(shuffle=False)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shuffle": False, "order": range}, "shuffle: False visits the rows in their order, and order says another one"),
        ({"shuffle": False, "shard_rows": 8}, "shuffle: False visits the rows in their order, and shard_rows says another one"),
        *(({"shuffle": value}, f"shuffle: expected True or False, got {value!r}") for value in ("batch", None, 0, 1, np.True_)),
    ],
)
def test_what_does_not_go_with_it_is_refused(options: dict[str, Any], says: str) -> None:
    model = classifier()
    with pytest.raises(InputError, match=re.escape(says)):
        model.fit(*blobs(N), **OPTIONS, **options)
    assert not model.built


def test_mini_batches_of_an_iterable_have_their_order() -> None:
    with pytest.raises(FastnnError, match="shuffle: mini-batches are never shuffled: they come in the order of the iterable"):
        classifier().fit([blobs(30)], shuffle=False, verbose=0)


def test_with_shuffle_every_row_is_visited_in_every_epoch() -> None:
    X, y = blobs(N)
    history = classifier().fit(X, y, shuffle=True, optimizer=fastnn.SGD(0.0), **OPTIONS)
    np.testing.assert_allclose(history["loss"], history["loss"][0], rtol=1e-6)
