"""`compare`: sets of one source look alike, others do not, and what is said of a feature is what SciPy computes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fastnn.datasets import compare, flower, split
from fastnn.errors import InputError, InputTypeError


def sets(n: int, m: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((n, 3)), generator.standard_normal((m, 3))


def quiet(first: Any, second: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return compare(first, second, **options)


def test_each_feature_is_tested_by_itself() -> None:
    A, B = sets(80, 120)
    B[:, 1] += 1.5
    with pytest.warns(UserWarning, match="do not look alike: feature 1$"):
        found = compare(A, B)
    at = np.concatenate([A, B])
    distances = [np.abs((A[:, [j]] <= at[:, j]).mean(0) - (B[:, [j]] <= at[:, j]).mean(0)).max() for j in range(3)]
    np.testing.assert_allclose(found.statistics, distances, rtol=1e-12)
    np.testing.assert_allclose(found.p_values, [stats.ks_2samp(A[:, j], B[:, j]).pvalue for j in range(3)])
    assert found.shifted == ("feature 1",)
    assert not found.same
    assert "80 and 120 examples do not look alike: feature 1 (level 0.01)" in str(found)


def test_the_correction_is_holms() -> None:
    A, B = sets(60, 60, 3)
    B += (0.2, 0.3, 0.5)
    found = quiet(A, B)
    p = np.sort(found.p_values)
    expected = [3 * p[0], max(3 * p[0], 2 * p[1]), max(3 * p[0], 2 * p[1], p[2])]
    np.testing.assert_allclose(np.sort(found.adjusted), np.minimum(expected, 1))


def test_one_source_is_seldom_called_two() -> None:
    called = [not quiet(*sets(100, 60, seed), level=0.05).same for seed in range(300)]
    assert 0 < sum(called) <= 25, "5 % of 300 are 15, with a deviation of 3.8"


def test_labels_are_compared_by_their_shares() -> None:
    X = np.zeros((200, 1))
    first, second = np.repeat(["a", "b"], [150, 50]), np.repeat(["a", "b", "c"], [90, 90, 20])
    found = quiet((X, first), (X, second))
    assert found.shifted == ("labels",)
    assert found.statistics[1] == pytest.approx(0.3)
    table = [[150, 50, 0], [90, 90, 20]]
    assert found.p_values[1] == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue)
    assert quiet((X, np.zeros(200)), (X[:7], np.zeros(7))).same, "one label alone"


def test_parts_of_one_set_look_alike() -> None:
    X, y = flower(400)
    _, dev, test = split(X, y, sizes=(0.5, 0.25, 0.25), stratify=y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compare(dev, test).same
    with pytest.warns(UserWarning, match="feature"):
        assert not compare(dev, (X[np.argsort(X[:, 0])][:100], y[:100])).same


def test_frames_and_images() -> None:
    A, B = sets(50, 50)
    B[:, 2] *= 9
    names = ["age", "height", "income"]
    assert quiet(pd.DataFrame(A, columns=names), pd.DataFrame(B, columns=names)).shifted == ("income",)
    found = quiet(A.reshape(50, 3, 1), B.reshape(50, 3, 1))
    assert found.shifted == ("feature 2",)
    many = quiet(np.tile(A, 20), np.tile(B, 20))
    assert len(str(many).splitlines()) == 13
    assert "and 15 more" in str(many).splitlines()[-1]


@pytest.mark.parametrize(
    ("first", "second", "options", "message"),
    [
        (np.zeros((3, 2)), np.zeros((3, 4)), {}, "same features in both sets, got 2 and 4"),
        (np.zeros((0, 2)), np.zeros((3, 2)), {}, "first X: expected at least one example"),
        (np.zeros((3, 2)), np.array([[0, np.nan]]), {}, "second X: .*1 "),
        (np.zeros(3), np.zeros((3, 1)), {}, "first X"),
        ((np.zeros((3, 2)), np.zeros(3)), np.zeros((3, 2)), {}, "labels in both sets"),
        ((np.zeros((3, 2)), np.zeros(2)), (np.zeros((3, 2)), np.zeros(3)), {}, "first y: .*each of the 3"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {"level": 0}, "level"),
        (pd.DataFrame({"a": [1.0]}), pd.DataFrame({"b": [1.0]}), {}, r"got 1 \(a\) and 1 \(b\)"),
    ],
)
def test_bad_input(first: Any, second: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(first, second, **options)


def test_labels_of_several_types_cannot_be_counted() -> None:
    labels = np.array(["a", "b", 3], object)
    with pytest.raises(InputTypeError, match=r"first y: expected labels of one type.*astype\(str\)"):
        compare((np.zeros((3, 2)), labels), (np.zeros((3, 2)), labels))
