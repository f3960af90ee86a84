"""`split`: every example in one part, every label in its share, and nothing that depends on the machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastnn import random
from fastnn.datasets import split
from fastnn.datasets.splitting import _table
from fastnn.errors import InputError, InputTypeError

X = np.arange(40).reshape(20, 2)
y = np.repeat([0, 1], [5, 15])


def test_rows_stay_together_and_every_example_is_in_one_part() -> None:
    (X_train, y_train), (X_test, y_test) = split(X, y)
    assert (len(X_train), len(y_train), len(X_test), len(y_test)) == (16, 16, 4, 4)
    for rows, labels in ((X_train, y_train), (X_test, y_test)):
        np.testing.assert_array_equal(rows[:, 1], rows[:, 0] + 1)
        np.testing.assert_array_equal(labels, rows[:, 0] // 2 >= 5)
    assert sorted(np.concatenate([X_train, X_test])[:, 0].tolist()) == list(range(0, 40, 2))


def test_the_order_is_the_permutation_of_the_seed() -> None:
    for seed in (0, 5):
        order = random.permutation(random.key(seed, random.SPLIT), 0, 20)
        train, dev = split(np.arange(20), sizes=(13, 5), seed=seed)
        np.testing.assert_array_equal(train, order[:13])
        np.testing.assert_array_equal(dev, order[13:18])


def test_the_order_of_a_stratified_part_is_that_of_the_permutation() -> None:
    order = random.permutation(random.key(3, random.SPLIT), 0, 20)
    for part in split(np.arange(20), sizes=(0.6, 0.4), seed=3, stratify=y):
        places = np.argsort(order)[part]
        assert (np.diff(places) > 0).all()


@pytest.mark.parametrize(
    ("sizes", "n", "expected"),
    [
        ((0.7, 0.3), 10, [7, 3]),
        ((0.6, 0.2, 0.2), 101, [61, 20, 20]),
        ((0.98, 0.01, 0.01), 10_000, [9800, 100, 100]),
        ((0.29, 0.71), 100, [29, 71]),
        ((1 / 3, 1 / 3, 1 / 3), 10, [4, 3, 3]),
        ((1.0,), 3, [3]),
        ((3, 4), 10, [3, 4]),
        (np.array([3, 4]), 7, [3, 4]),
        (tuple([0.1] * 10), 10, [1] * 10),
    ],
)
def test_sizes(sizes: Any, n: int, expected: list[int]) -> None:
    assert [len(part) for part in split(np.arange(n), sizes=sizes)] == expected


def test_stratified_shares() -> None:
    labels = np.repeat(["a", "b", "c"], [700, 200, 100])
    parts = split(labels, sizes=(0.6, 0.2, 0.2), seed=1, stratify=labels)
    assert [np.unique(part, return_counts=True)[1].tolist() for part in parts] == [[420, 120, 60], [140, 40, 20], [140, 40, 20]]


tables = st.lists(st.integers(1, 30), min_size=1, max_size=12).flatmap(
    lambda members: st.tuples(st.just(members), st.lists(st.integers(0, sum(members)), min_size=1, max_size=5))
)


@settings(max_examples=300, deadline=None)
@given(tables)
def test_every_table_of_shares_is_rounded_up_or_down(drawn: tuple[list[int], list[int]]) -> None:
    members, cuts = np.array(drawn[0]), sorted(drawn[1])
    counts = np.diff([0, *cuts, members.sum()])
    table = _table(members, counts)
    np.testing.assert_array_equal(table.sum(axis=1), members)
    np.testing.assert_array_equal(table.sum(axis=0), counts)
    exact = np.outer(members, counts)
    assert (np.abs(table * members.sum() - exact) < members.sum()).all()


def test_another_label_gives_way() -> None:
    # The greatest remainders of the first label take the room that the last one needs.
    rng = np.random.default_rng(0)
    for _ in range(200):
        members = rng.integers(1, 9, 6)
        counts = rng.multinomial(members.sum(), [0.3, 0.3, 0.2, 0.2])
        table = _table(members, counts)
        assert (table.sum(axis=0) == counts).all()


def test_frames_and_sparse_matrices() -> None:
    order = split(np.arange(20))[0]
    pandas, polars, sparse = (pytest.importorskip(name) for name in ("pandas", "polars", "scipy.sparse"))
    frame = pandas.DataFrame(X, columns=["a", "b"], index=range(100, 120))
    (frame_train, series_train), _ = split(frame, frame["a"])
    np.testing.assert_array_equal(frame_train, X[order])
    np.testing.assert_array_equal(series_train, X[order, 0])
    assert frame_train.index.tolist() == (order + 100).tolist()
    (rows, column), _ = split(polars.DataFrame(X), polars.Series(y))
    np.testing.assert_array_equal(rows.to_numpy(), X[order])
    np.testing.assert_array_equal(column.to_numpy(), y[order])
    for kind in (sparse.csr_matrix, sparse.csc_array, sparse.coo_array):
        np.testing.assert_array_equal(split(kind(X))[0].toarray(), X[order])
    np.testing.assert_array_equal(split(frame, stratify=frame["a"] > 20)[0], split(X, stratify=X[:, 0] > 20)[0])


def test_memory_maps_stay_on_the_disk(tmp_path: Any) -> None:
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=(20, 2))
    mapped[:] = X
    train, test = split(mapped)
    np.testing.assert_array_equal(np.vstack([train, test])[:, 0].astype(int).sum(), X[:, 0].sum())


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((), {}, InputError, "expected arrays, got none"),
        ((X, y.tolist()), {}, InputTypeError, "array 2: expected an array, got a list; convert it with numpy.asarray"),
        ((np.float64(3),), {}, InputTypeError, "array 1: expected an array, got a float64"),
        ((X, y[:-1]), {}, InputError, "equally many rows, got 20, 19"),
        ((X,), {"sizes": (0.8, 0.3)}, InputError, r"add up to 1, got \(0.8, 0.3\), which add up to 1.1"),
        ((X,), {"sizes": (0.8,)}, InputError, "which add up to 0.8"),
        ((X,), {"sizes": (15, 6)}, InputError, r"at most 20 examples in all, got \(15, 6\), which are 21"),
        ((X,), {"sizes": (15, 0)}, InputError, "numbers above 0"),
        ((X,), {"sizes": (1.2, -0.2)}, InputError, "numbers above 0"),
        ((X,), {"sizes": (float("nan"), 0.5)}, InputError, "numbers above 0"),
        ((X,), {"sizes": (0.5, 10)}, InputError, "expected shares such as"),
        ((X,), {"sizes": ()}, InputError, "expected shares such as"),
        ((X,), {"sizes": 0.8}, InputError, "expected shares such as"),
        ((X,), {"sizes": "80"}, InputError, "expected shares such as"),
        ((X,), {"sizes": (True, True)}, InputError, "expected shares such as|add up to 1"),
        ((X,), {"sizes": (0.98, 0.01, 0.01)}, InputError, "0.01 of 20 examples is none"),
        ((X[:0],), {}, InputError, "0.8 of 0 examples is none"),
        ((X,), {"seed": -1}, InputError, "seed"),
        ((X,), {"stratify": y[:-1]}, InputError, r"a label for each of the 20 examples, got shape \(19,\)$"),
        ((X,), {"stratify": y[:, None]}, InputError, r"shape \(20, 1\); use .ravel\(\)"),
        ((X,), {"stratify": np.eye(20)}, InputError, r"use .argmax\(axis=1\)"),
        ((X,), {"stratify": np.append(y[:-1], 7)}, InputError, "7 has 1 example, expected at least 2, one for each part"),
        ((X,), {"stratify": np.array(["a", None] * 10, object)}, InputTypeError, "labels of one type"),
    ],
)  # fmt: skip
def test_what_cannot_be_split(arguments: tuple[Any, ...], options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        split(*arguments, **options)
