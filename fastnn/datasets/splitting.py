"""`split`: examples in parts, to train on, to choose by and to test on."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from fastnn import arrays, random
from fastnn.errors import InputError, InputTypeError


def split(*examples: Any, sizes: Sequence[float] = (0.8, 0.2), seed: int = 0, stratify: Any = None) -> tuple[Any, ...]:
    """Parts of the examples, drawn at random; each part has its rows of every array, in the same order:

        (X_train, y_train), (X_test, y_test) = split(X, y)
        (X_train, y_train), (X_dev, y_dev), (X_test, y_test) = split(X, y, sizes=(0.98, 0.01, 0.01), stratify=y)

    `examples`: arrays, frames or sparse matrices with equally many rows; of one alone, the parts come without a tuple.
    `sizes`: shares that add up to 1, or numbers of examples that add up to at most all of them (the rest is left out). Where
    shares make no integers, the greatest remainders are rounded up. `seed`: the order is
    `permutation(key(seed, SPLIT), 0, n)` of `fastnn.random`, and without `stratify` the parts follow one another in it.
    `stratify`: labels (n,), of which every part is to have as great a share as all examples have: the number of examples of
    each label in each part is its exact share, rounded up or down.

    Raises InputError for sizes that make a part empty and for labels with fewer examples than there are parts, InputTypeError
    for lists.
    """
    parts = draw_parts(_rows(examples), sizes, seed, stratify)
    taken = [[_take(array, rows) for array in examples] for rows in parts]
    return tuple(rows[0] if len(examples) == 1 else tuple(rows) for rows in taken)


def draw_parts(n: int, sizes: Sequence[float], seed: int, stratify: Any, what: str = "split") -> list[np.ndarray]:
    """The rows (int64) of n examples in each part, as they are drawn; see `split`. `what`: how messages begin."""
    counts = _counts(sizes, n, what)
    parts = len(counts)
    counts = np.append(counts, n - counts.sum())
    order = random.permutation(random.key(seed, random.SPLIT), 0, n)
    if stratify is None:
        part = np.repeat(np.arange(parts + 1), counts)
    else:
        part = np.empty(n, np.int64)
        labels, members = _labels(stratify, n, parts, what)
        grouped = np.argsort(labels[order], kind="stable")  # positions in the order, label by label
        part[grouped] = np.repeat(np.tile(np.arange(parts + 1), len(members)), _table(members, counts).ravel())
    return [order[part == p] for p in range(parts)]


def _rows(examples: tuple[Any, ...]) -> int:
    if not examples:
        raise InputError("split: expected arrays, got none")
    lengths = []
    for number, array in enumerate(examples, 1):
        shape = getattr(array, "shape", None)
        if not isinstance(shape, tuple) or not shape:
            kind = type(array).__name__
            raise InputTypeError(f"split: array {number}: expected an array, got a {kind}; convert it with numpy.asarray")
        lengths.append(int(shape[0]))
    if len(set(lengths)) > 1:
        raise InputError(f"split: expected arrays with equally many rows, got {', '.join(map(str, lengths))}")
    return lengths[0]


def _counts(sizes: Sequence[float], n: int, what: str) -> np.ndarray:
    """The number of examples of each part."""
    numbers = list(sizes) if isinstance(sizes, Sequence | np.ndarray) and not isinstance(sizes, str) else []
    whole = [isinstance(size, Integral) and not isinstance(size, bool) for size in numbers]
    if not numbers or not (all(whole) or (not any(whole) and all(isinstance(size, Real) for size in numbers))):
        raise InputError(f"{what}: sizes: expected shares such as (0.8, 0.2) or integers, got {sizes!r}")
    if not all(size > 0 for size in numbers):
        raise InputError(f"{what}: sizes: expected numbers above 0, got {sizes!r}")
    if all(whole):
        if sum(numbers) > n:
            raise InputError(f"{what}: sizes: expected at most {n} examples in all, got {sizes!r}, which are {sum(numbers)}")
        return np.array(numbers, np.int64)
    total = math.fsum(numbers)
    if not abs(total - 1.0) <= 1e-9:
        raise InputError(f"{what}: sizes: expected shares that add up to 1, got {sizes!r}, which add up to {total:g}")
    exact = np.array(numbers, np.float64) * n
    counts = np.floor(exact + 1e-9 * n).astype(np.int64)  # 0.29 * 100 is a little less than 29
    greatest = np.argsort(counts - exact, kind="stable")
    counts[greatest[: n - counts.sum()]] += 1
    if not counts.all():
        raise InputError(
            f"{what}: {numbers[int(counts.argmin())]:g} of {n} examples is none; expected at least one in each part"
        )
    return counts


def _labels(stratify: Any, n: int, parts: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Which of the different labels each example has, and how many examples each of them has."""
    labels = arrays.to_host(stratify)
    if labels.shape != (n,):
        cure = "; use .ravel()" if labels.shape == (n, 1) else "; use .argmax(axis=1)" if labels.shape[:1] == (n,) else ""
        raise InputError(f"{what}: stratify: expected a label for each of the {n} examples, got shape {labels.shape}{cure}")
    try:
        known, numbers, members = np.unique(labels, return_inverse=True, return_counts=True)
    except TypeError as error:
        raise InputTypeError(f"{what}: stratify: expected labels of one type; convert them with .astype(str)") from error
    if members.min() < parts:
        rare, few = known.tolist()[members.argmin()], int(members.min())
        raise InputError(
            f"{what}: {rare!r} has {few} example{'s' * (few > 1)}, expected at "
            f"least {parts}, one for each part; leave it out, or call fastnn.datasets.split without stratify"
        )
    return numbers, members


def _table(members: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Integers (labels, parts) with the sums `members` and `counts`, each the exact share or the next one above.

    Shares are rounded down first. What is missing in a label's row goes to the parts with the greatest remainders that have
    room, and where none has, another label gives way. That there is always such a table, and a way to it, is the theorem of
    whole flows in a network.
    """
    table, remainder = np.divmod(np.outer(members, counts), members.sum())
    room = counts - table.sum(axis=0)
    free = remainder > 0  # may be rounded up, and is not yet
    up = np.zeros_like(free)
    for label, missing in enumerate(members - table.sum(axis=1)):
        for _ in range(missing):
            for giver, source, target in _way(label, free, up, room, remainder):
                if source is not None:
                    up[giver, source], free[giver, source] = False, True
                up[giver, target], free[giver, target] = True, False
    return table + up


def _way(
    label: int, free: np.ndarray, up: np.ndarray, room: np.ndarray, remainder: np.ndarray
) -> list[tuple[int, int | None, int]]:
    """The shortest list of moves (label, from part, to part) after which `label` has one more; takes the room it ends in."""
    reached: dict[int, tuple[int, int | None, int]] = {}
    waiting: deque[int] = deque()
    for part in sorted(np.flatnonzero(free[label]).tolist(), key=lambda part: (-remainder[label, part], part)):
        reached[part] = (label, None, part)
        waiting.append(part)
    while waiting:
        part = waiting.popleft()
        if room[part]:
            room[part] -= 1
            moves = [reached[part]]
            while (source := moves[-1][1]) is not None:
                moves.append(reached[source])
            return moves
        for other in set(range(len(room))) - reached.keys():
            giving = up[:, part] & free[:, other]
            if giving.any():
                reached[other] = (int(giving.argmax()), part, other)
                waiting.append(other)
    raise AssertionError("no table with these sums")


def _take(array: Any, rows: np.ndarray) -> Any:
    if hasattr(array, "iloc"):  # a frame or series of pandas
        return array.iloc[rows]
    if hasattr(array, "tocsr"):  # a sparse matrix, of which not every form has rows
        return array.tocsr()[rows]
    return array[rows if arrays.on_host(array) else arrays.to_device(rows, array)]
