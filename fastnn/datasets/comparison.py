"""`compare`: whether two sets of examples, such as dev and test, look as if they were drawn from one source.

Each feature is compared by itself, by the two-sample test of Kolmogorov and Smirnov; the labels by the chi-squared test of
their counts. A classifier that is trained to tell the sets apart (Lopez-Paz & Oquab 2017) would also see differences that lie
in several features together alone; these tests need no training and no split of their own, give the same answer every time,
and name the features to look at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastnn import arrays
from fastnn.configurations import as_number
from fastnn.data import inputs, targets
from fastnn.errors import InputError, warn
from fastnn.notebooks import Printed

SHOWN = 10
"""Rows that are printed."""


@dataclass(frozen=True, eq=False)
class DistributionComparison(Printed):
    """What `compare` found, for each feature and, where labels were given, for "labels".

    `names`; `statistics`: for a feature D, the greatest distance between the two distribution functions, from 0 to 1; for
    labels half the sum of the differences of their shares, from 0 to 1 as well; `p_values`: how probable a distance of at least
    this size is between two sets of one source; `adjusted`: the same, corrected for the number of tests (Holm 1979).
    """

    names: tuple[str, ...]
    statistics: np.ndarray
    p_values: np.ndarray
    adjusted: np.ndarray
    level: float
    sizes: tuple[int, int]

    @property
    def shifted(self) -> tuple[str, ...]:
        """The names whose adjusted p-value is below the level, the least probable first."""
        return tuple(self.names[i] for i in self._order() if self.adjusted[i] < self.level)

    @property
    def same(self) -> bool:
        return not self.shifted

    def _order(self) -> list[int]:
        return np.lexsort((-self.statistics, self.p_values)).tolist()  # type: ignore[no-any-return]

    def __str__(self) -> str:
        width = max(7, *(len(name) for name in self.names))
        rows = [f"{'feature':<{width}}  {'distance':>8}  {'p-value':>9}  {'adjusted':>9}"]
        order = self._order()
        for i in order[:SHOWN]:
            rows.append(
                f"{self.names[i]:<{width}}  {self.statistics[i]:8.3f}  {self.p_values[i]:9.2e}  {self.adjusted[i]:9.2e}"
            )
        rows += [f"... and {len(order) - SHOWN} more"] if len(order) > SHOWN else []
        first, second = self.sizes
        verdict = "look alike" if self.same else f"do not look alike: {_listing(self.shifted)}"
        return "\n".join([*rows, f"{first:,} and {second:,} examples {verdict} (level {self.level:g})"])


def compare(first: Any, second: Any, *, level: float = 0.01) -> DistributionComparison:
    """Test whether two sets, such as dev and test, look alike; warns where they do not.

        (X_train, y_train), dev, test = split(X, y, sizes=(0.98, 0.01, 0.01))
        print(compare(dev, test))

    `first`, `second`: X (n, ...) each, or pairs (X, y) with labels y (n,). Two sets of one source are called different with a
    probability of at most `level`, over all tests together; where values repeat (counts, pixels) the test is more cautious than
    that. It tells more the more examples there are: in two sets of 100, shares that differ by less than about 0.2 go unseen.

    Sources: Smirnov 1948 (D, whose distribution is taken exactly in small sets, in its limit in large ones); Pearson 1900
    (labels); Holm 1979 (the correction).
    Raises InputError for sets with other features than each other, without examples, or with values that are not finite,
    InputTypeError for labels of several types.
    """
    from scipy import stats

    if not 0.0 < as_number(level) < 1.0:
        raise InputError(f"level: expected a number between 0 and 1, got {level!r}")
    (A, labels_a, names), (B, labels_b, other) = _read(first, "first"), _read(second, "second")
    if A.shape[1] != B.shape[1] or names != other:
        raise InputError(f"expected the same features in both sets, got {_features(A, names)} and {_features(B, other)}")
    if (labels_a is None) != (labels_b is None):
        raise InputError("expected labels in both sets or in none: pairs (X, y), or X alone")
    found_names, statistics, p_values = list(names or (f"feature {i}" for i in range(A.shape[1]))), [], []
    for a, b in zip(A.T, B.T, strict=True):
        tested = stats.ks_2samp(a, b)
        statistics.append(float(tested.statistic))
        p_values.append(float(tested.pvalue))
    if labels_a is not None and labels_b is not None:
        counts = _counts(labels_a, labels_b)
        shares = counts / counts.sum(axis=1, keepdims=True)
        found_names.append("labels")
        statistics.append(float(np.abs(shares[0] - shares[1]).sum() / 2))
        p_values.append(float(stats.chi2_contingency(counts, correction=False).pvalue) if counts.shape[1] > 1 else 1.0)
    p = np.array(p_values)
    comparison = DistributionComparison(tuple(found_names), np.array(statistics), p, _holm(p), float(level), (len(A), len(B)))
    if not comparison.same:
        warn(f"the two sets do not look alike: {_listing(comparison.shifted)}")
    return comparison


def _read(data: Any, which: str) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...] | None]:
    """Features (n, F), labels (n,) or None, and the names of the features."""
    X, y = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    rows = inputs.read(X, None, f"{which} X")
    features = arrays.to_host(rows.array[:])
    if not len(features):
        raise InputError(f"{which} X: expected at least one example, got none")
    features = features.reshape(len(features), -1)
    if features.dtype.kind == "f" and not np.isfinite(features).all():
        raise InputError(f"{which} X: {np.count_nonzero(~np.isfinite(features))} values are NaN or infinite")
    labels = None if y is None else targets.plain(y, f"{which} y")
    if labels is not None and labels.shape != (len(features),):
        raise InputError(f"{which} y: expected a label for each of the {len(features)} examples, got shape {labels.shape}")
    return features, labels, rows.names


def _counts(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How often each label occurs: (2, C)."""
    known = np.unique(np.concatenate([first, second]))
    return np.stack([np.bincount(np.searchsorted(known, labels), minlength=len(known)) for labels in (first, second)])


def _holm(p: np.ndarray) -> np.ndarray:
    """p-values of m tests, the k-th least times m - k + 1, and none below one before it."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def _features(X: np.ndarray, names: tuple[str, ...] | None) -> str:
    return f"{X.shape[1]} ({_listing(names)})" if names else f"{X.shape[1]}"


def _listing(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
