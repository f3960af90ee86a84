"""`fit(validation_split=...)` is `fit` on some rows with the others as validation data, bit for bit, and copies none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainings import blobs, digest

import fastnn
from fastnn.callbacks import Checkpoint
from fastnn.data import inputs
from fastnn.datasets import split
from fastnn.errors import InputError

N = 300
SEED = 0
OPTIONS: dict[str, Any] = {"epochs": 3, "batch_size": 32, "verbose": 0}


def network(outputs: int = 3, seed: int = SEED, **options: Any) -> fastnn.Sequential:
    return fastnn.Sequential([fastnn.Dense(8, activation="relu"), fastnn.Dense(outputs)], seed=seed, **options)


def rows(share: float, labels: Any = None, seed: int = SEED, n: int = N) -> tuple[np.ndarray, np.ndarray]:
    """The rows of training and of validation, in their order."""
    training, validation = split(np.arange(n), sizes=(1 - share, share), seed=seed, stratify=labels)
    return np.sort(training), np.sort(validation)


def assert_equal(model: fastnn.Sequential, history: Any, other: fastnn.Sequential, expected: Any) -> None:
    assert digest(model) == digest(other)
    assert dict(history) == dict(expected)
    assert (history.training_rows, history.validation_rows) == (expected.training_rows, expected.validation_rows)


@pytest.mark.parametrize("share", [0.2, 0.5, 1 / 3, np.float32(0.25)])
@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_it_is_fit_with_validation_data(share: float, device: str) -> None:
    X, y = blobs(N)
    t, v = rows(float(share), y)
    options = {**OPTIONS, "metrics": ["f1", "log_loss"], "device": device}
    model, other = network(), network()
    history = model.fit(X, y, validation_split=share, **options)
    expected = other.fit(X[t], y[t], validation_data=(X[v], y[v]), **options)
    assert len(t) + len(v) == N
    assert_equal(model, history, other, expected)


def test_every_class_has_its_share_in_both_parts() -> None:
    X, _ = blobs(N)
    y = np.array(["ash", "birch", "elm"])[np.arange(N) % 10 // 4]
    t, v = rows(0.2, y)
    assert np.unique(y[t], return_counts=True)[1].tolist() == [96, 96, 48]
    model, other = network(), network()
    history = model.fit(X, y, validation_split=0.2, **OPTIONS)
    assert_equal(model, history, other, other.fit(X[t], y[t], validation_data=(X[v], y[v]), **OPTIONS))
    assert model.classes_.tolist() == ["ash", "birch", "elm"]


KINDS: dict[str, tuple[int, str]] = {
    "one-hot": (3, "softmax_cross_entropy"), "yes or no": (1, "sigmoid_cross_entropy"),
    "several yeses": (3, "sigmoid_cross_entropy"), "numbers": (1, "mean_squared_error"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task(kind: str) -> None:
    """Those without classes are not stratified."""
    X, labels = blobs(N)
    outputs, loss = KINDS[kind]
    y = {"one-hot": np.eye(3)[labels], "yes or no": labels == 1, "several yeses": X[:, :3] > 0, "numbers": X[:, 0]}[kind]
    t, v = rows(0.3, {"one-hot": labels, "yes or no": labels == 1}.get(kind))
    model, other = network(outputs), network(outputs)
    history = model.fit(X, y, loss=loss, validation_split=0.3, **OPTIONS)
    assert_equal(model, history, other, other.fit(X[t], y[t], loss=loss, validation_data=(X[v], y[v]), **OPTIONS))


@pytest.mark.parametrize("options", [{"shard_rows": 16}, {"batch_size": "all"}, {"epochs": 0}, {"l2": 1e-2, "threads": 1}])
def test_other_options_go_with_it(options: dict[str, Any]) -> None:
    X, y = blobs(N)
    t, v = rows(0.2, y)
    model, other = network(), network()
    history = model.fit(X, y, validation_split=0.2, **{**OPTIONS, **options})
    assert_equal(model, history, other, other.fit(X[t], y[t], validation_data=(X[v], y[v]), **{**OPTIONS, **options}))


def test_class_weights_are_of_the_training_rows() -> None:
    X, y = blobs(N)
    y[:80] = 0
    t, v = rows(0.2, y)
    for class_weight in ("balanced", {0: 0.5, 2: 3.0}):
        model, other = network(), network()
        history = model.fit(X, y, class_weight=class_weight, validation_split=0.2, **OPTIONS)
        expected = other.fit(X[t], y[t], class_weight=class_weight, validation_data=(X[v], y[v]), **OPTIONS)
        assert_equal(model, history, other, expected)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_weights_of_examples_go_with_them_into_both_parts(class_weight: Any) -> None:
    X, y = blobs(N)
    weights = np.random.default_rng(1).uniform(0, 2, N)
    t, v = rows(0.2, y)
    model, other = network(), network()
    options = {**OPTIONS, "class_weight": class_weight}
    history = model.fit(X, y, sample_weight=weights, validation_split=0.2, metrics=["f1"], **options)
    expected = other.fit(X[t], y[t], sample_weight=weights[t], **options)
    assert digest(model) == digest(other)
    assert history["loss"] == expected["loss"]
    last = other.evaluate(X[v], y[v], sample_weight=weights[v], metrics=["f1"])
    assert {name: history[f"val_{name}"][-1] for name in last} == last


def sources(folder: Path) -> dict[str, Any]:
    """The same rows as different kinds of inputs, the first of which is a plain array."""
    pandas, polars, sparse = pytest.importorskip("pandas"), pytest.importorskip("polars"), pytest.importorskip("scipy.sparse")
    X, _ = blobs(N)
    X = np.where(X > 0, X, 0).astype("float32")
    names = [f"f{i}" for i in range(X.shape[1])]
    np.save(folder / "x.npy", X)
    np.save(folder / "x2.npy", X.astype(">f4"))
    return {
        "array": X, "lists": X.tolist(), "columns": np.asfortranarray(X), "pandas": pandas.DataFrame(X, columns=names),
        "polars": polars.DataFrame(X, schema=names), "sparse": sparse.csr_matrix(X),
        "memory map": np.load(folder / "x.npy", mmap_mode="r"), "converted map": np.load(folder / "x2.npy", mmap_mode="r"),
    }  # fmt: skip


KINDS_OF_X = ["lists", "columns", "pandas", "polars", "sparse", "memory map", "converted map"]


@pytest.mark.parametrize("kind", KINDS_OF_X)
def test_every_kind_of_inputs(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "LARGE_BYTES", 100)  # the maps are read block by block
    X, (_, y) = sources(tmp_path), blobs(N)
    model, other = network(), network()
    options = {**OPTIONS, "validation_split": 0.2, "metrics": ["log_loss"]}
    assert_equal(model, model.fit(X[kind], y, **options), other, other.fit(X["array"], y, **options))


def test_no_row_of_a_large_array_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program of a step gathers from the array of the caller itself, and validation reads it in blocks."""
    X, y = blobs(N)
    bound: list[Any] = []
    bind = fastnn.engines.host.HostInstance.bind
    monkeypatch.setattr(
        fastnn.engines.host.HostInstance, "bind", lambda self, **arrays: bound.append(arrays.get("X")) or bind(self, **arrays)
    )
    network().fit(X, y, validation_split=0.2, **OPTIONS)
    seen = [array for array in bound if array is not None]
    assert seen
    assert all(array is X or np.shares_memory(array, X) for array in seen)


def test_the_seed_of_the_model_decides() -> None:
    X, y = blobs(N)
    histories = [network(seed=seed).fit(X, y, validation_split=0.2, **OPTIONS) for seed in (1, 1, 2)]
    assert dict(histories[0]) == dict(histories[1])
    assert not np.array_equal(rows(0.2, y, 1)[1], rows(0.2, y, 2)[1])


def test_how_many_rows_there_are_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    X, y = blobs(N)
    history = network().fit(X, y, validation_split=0.2, **{**OPTIONS, "verbose": 1})
    assert (history.training_rows, history.validation_rows) == (240, 60)
    assert "training on 240 rows, validating with 60" in capsys.readouterr().out
    history = network().fit(X, y, validation_data=(X[:7], y[:7]), **{**OPTIONS, "verbose": 1})
    assert (history.training_rows, history.validation_rows) == (300, 7)
    assert "validating with" not in capsys.readouterr().out


@pytest.mark.parametrize(("cut", "share"), [(1, 0.2), (2, np.float32(0.2))])
def test_a_resumed_run_holds_back_the_same_rows(cut: int, share: float, tmp_path: Path) -> None:
    X, y = blobs(N)
    options = {**OPTIONS, "validation_split": share, "sample_weight": np.linspace(0.5, 2, N)}
    whole, first, second = network(), network(), network()
    expected = whole.fit(X, y, **options)
    first.fit(X, y, callbacks=[Checkpoint(tmp_path)], **{**options, "epochs": cut})
    history = second.fit(X, y, resume=tmp_path, **options)
    assert_equal(second, history, whole, expected)


@pytest.mark.parametrize(
    ("before", "now", "says"),
    [
        ({"validation_split": 0.2}, {"validation_split": 0.3}, "other validation split: it has 0.2, this call 0.3"),
        ({"validation_split": 0.2}, {}, "other validation split: it has 0.2, this call None"),
        ({}, {"validation_split": 0.2}, "other validation split: it has None, this call 0.2"),
    ],
)
def test_another_split_is_refused_on_resume(before: Any, now: Any, says: str, tmp_path: Path) -> None:
    X, y = blobs(N)
    network().fit(X, y, callbacks=[Checkpoint(tmp_path)], **OPTIONS, **before)
    model = network()
    with pytest.raises(InputError, match=re.escape(says)):
        model.fit(X, y, resume=tmp_path, **OPTIONS, **now)
    assert not model.built


REFUSED: list[tuple[dict[str, Any], str]] = [
    *(({"validation_split": share}, "expected a share of the examples, 0 < share < 1, such as 0.2, got")
      for share in (0, 0.0, 1, 1.0, -0.1, 1.5, 60, float("nan"), True, "0.2", [0.2])),
    ({"validation_split": 0.2, "validation_data": blobs(30)}, "validation_split: there is validation_data already"),
    ({"validation_split": 0.2, "order": range}, r"validation_split: order(epoch) names rows of X"),
    ({"validation_split": 0.001}, "validation_split: 0.001 of 30 examples is none"),
    ({"validation_split": 0.999}, "validation_split: 0.001 of 30 examples is none"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "says"), REFUSED, ids=lambda value: repr(value)[:60])
def test_what_is_refused_changes_nothing(options: dict[str, Any], says: str) -> None:
    X, y = blobs(30)
    model = network()
    with pytest.raises(InputError, match=re.escape(says)):
        model.fit(X, y, **{**OPTIONS, **options})
    assert not model.built


def test_mini_batches_of_an_iterable_are_refused() -> None:
    with pytest.raises(InputError, match="validation_split: mini-batches come as they are; give validation_data"):
        network().fit([blobs(30)], validation_split=0.2, verbose=0)


def test_classes_of_too_few_rows_are_refused_by_name() -> None:
    X, _ = blobs(30)
    y = np.array(["ash", "birch", "elm"])[[0] * 15 + [1] * 14 + [2]]
    with pytest.raises(InputError, match="validation_split: 'elm' has 1 example, expected at least 2"):
        network().fit(X, y, validation_split=0.2, **{**OPTIONS, "batch_size": 2})
    y[28] = "elm"
    network().fit(X, y, validation_split=0.2, **{**OPTIONS, "batch_size": 2})
    with pytest.raises(InputError, match=r"validation_split: 0\.9 leaves no row of 'elm' to train on"):
        network().fit(X, y, validation_split=0.9, **{**OPTIONS, "batch_size": 2})


def test_bad_weights_are_named_by_their_rows() -> None:
    X, y = blobs(30)
    weights = np.ones(30)
    weights[17] = -1
    with pytest.raises(InputError, match=r"sample_weight: expected finite numbers of at least 0, got -1\.0 in row 17"):
        network().fit(X, y, sample_weight=weights, validation_split=0.2, **OPTIONS)


def test_early_stopping_watches_what_is_held_back() -> None:
    X, y = blobs(N)
    stopping = fastnn.callbacks.EarlyStopping("val_loss", patience=1)
    network().fit(X, y, validation_split=0.2, callbacks=[stopping], **OPTIONS)
    assert stopping.best_epoch >= 0
    with pytest.raises(InputError, match="no 'val_loss'; give validation_data or validation_split"):
        network().fit(X, y, callbacks=[stopping], **OPTIONS)


def test_a_callback_that_looks_at_examples_sees_those_of_the_training() -> None:
    X, y = blobs(N)
    t, _ = rows(0.2, y)
    flows = [fastnn.GradientFlow(every=3), fastnn.GradientFlow(every=3)]
    network().fit(X, y, validation_split=0.2, callbacks=flows[:1], **OPTIONS)
    network().fit(X[t], y[t], callbacks=flows[1:], **OPTIONS)
    np.testing.assert_array_equal(flows[0].steps, flows[1].steps)
    np.testing.assert_array_equal(flows[0].gradients, flows[1].gradients)
