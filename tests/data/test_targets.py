"""Labels: what each form of targets becomes, the way back, and what is said about targets that cannot be."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastnn
from fastnn.data.targets import Targets, Task, decode, read, weights
from fastnn.errors import FastnnError, InputError, InputTypeError
from fastnn.losses import LOSSES, Loss

SOFTMAX, SIGMOID = LOSSES["softmax_cross_entropy"], LOSSES["sigmoid_cross_entropy"]
SQUARED = LOSSES["mean_squared_error"]
F4 = np.dtype("float32")


def targets(y: Any, outputs: int, loss: Loss = SOFTMAX, squashed: bool = False, n: int | None = None, **more: Any) -> Targets:
    return read(y, len(y) if n is None else n, outputs, loss, squashed, F4, **more)


def check(found: Targets, kind: str, values: Any, classes: Any, dtype: Any = None) -> None:
    """Kind, values and classes, with their dtypes; `dtype`: that of the classes, where it is another one than of a list."""
    values = np.asarray(values)
    assert found.kind == kind
    assert found.values.dtype == (np.int64 if values.ndim == 1 else F4)
    assert found.values.flags.c_contiguous
    np.testing.assert_array_equal(found.values, values, strict=False)
    assert found.values.shape == values.shape
    if classes is None:
        assert found.classes is None
    else:
        assert found.classes is not None
        assert found.classes.dtype == dtype if dtype else found.classes.dtype.kind == np.asarray(classes).dtype.kind
        assert found.classes.tolist() == list(classes)


def column(*values: float) -> np.ndarray:
    return np.array(values, F4)[:, np.newaxis]


STRING_DTYPES = [np.dtypes.StringDType] if hasattr(np.dtypes, "StringDType") else []
"""NumPy's strings of any length, from 2.0 on."""
FRUIT = ["pear", "apple", "fig", "apple"]
FRUIT_AT = [2, 0, 1, 0]
ROWS = np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0]])


# --- what it becomes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "indices", "classes"),
    [
        (np.array([0, 2, 1, 2]), [0, 2, 1, 2], [0, 1, 2]),
        (np.array([0, 2], np.uint8), [0, 2], [0, 1, 2]),
        (np.array([0, 2], ">i4"), [0, 2], [0, 1, 2]),
        (np.arange(8)[::4] // 2, [0, 2], [0, 1, 2]),
        (np.array([1]), [1], [0, 1, 2]),
        (np.array([3, 1, 2]), [2, 0, 1], [1, 2, 3]),
        (np.array([-7, 900, 4, 900]), [0, 2, 1, 2], [-7, 4, 900]),
        (np.array([10**12, -(10**12), 0]), [2, 0, 1], [-(10**12), 0, 10**12]),
        (np.array([200, 10, 255], np.uint8), [1, 0, 2], [10, 200, 255]),
        (np.array([-128, 127, 0], np.int8), [0, 2, 1], [-128, 0, 127]),
        ([5, 9, 7], [0, 2, 1], [5, 7, 9]),
        ([np.int64(5), 9, np.int8(7)], [0, 2, 1], [5, 7, 9]),
        (FRUIT, FRUIT_AT, sorted(set(FRUIT))),
        (tuple(FRUIT), FRUIT_AT, sorted(set(FRUIT))),
        (np.array(FRUIT), FRUIT_AT, sorted(set(FRUIT))),
        (np.array(FRUIT, object), FRUIT_AT, sorted(set(FRUIT))),
        *((np.array(FRUIT, dtype()), FRUIT_AT, sorted(set(FRUIT))) for dtype in STRING_DTYPES),
    ],
)
def test_labels_become_indices(y: Any, indices: list[int], classes: list[Any]) -> None:
    dtype = y.dtype.newbyteorder("=") if isinstance(y, np.ndarray) and y.dtype.kind in "iu" else None
    check(targets(y, 3), "classes", indices, classes, dtype)
    check(targets(y, 3, SQUARED), "classes", indices, classes, dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_whole_floating_point_numbers_are_labels_where_classes_are_compared(dtype: str) -> None:
    check(targets(np.array([0, 2, 1], dtype), 3), "classes", [0, 2, 1], [0.0, 1.0, 2.0], dtype)
    check(targets(np.array([0, 2], dtype), 3), "classes", [0, 2], [0.0, 1.0, 2.0], dtype)
    check(targets(np.array([-1, 5], dtype), 2), "classes", [0, 1], [-1.0, 5.0], dtype)
    check(targets(np.array([0, 2], dtype), 3, known=task([0, 1, 2])), "classes", [0, 2], [0, 1, 2], np.int64)


def test_truth_values_are_two_classes() -> None:
    check(targets([True, False], 2), "classes", [1, 0], [False, True])
    check(targets(np.array([True]), 2), "classes", [1], [False, True])
    with pytest.raises(InputError, match=r"2 different labels \(False, True\), the last layer has 3 units: use Dense\(2\)"):
        targets(np.array([True, False]), 3)


@pytest.mark.parametrize(
    ("y", "yes", "classes"),
    [
        (np.array([0, 1, 1]), [0, 1, 1], [0, 1]),
        (np.array([[0], [1]]), [0, 1], [0, 1]),
        (np.array([0.0, 1.0]), [0, 1], [0, 1]),
        (np.array([True, False]), [1, 0], [False, True]),
        (np.array([-1, 1, -1]), [0, 1, 0], [-1, 1]),
        (np.array([1.0, -1.0]), [1, 0], [-1.0, 1.0]),
        (np.array([2, 1]), [1, 0], [1, 2]),
        (["no", "yes"], [0, 1], ["no", "yes"]),
        (np.array([["spam"], ["ham"]]), [1, 0], ["ham", "spam"]),
        (np.array([1]), [1], [0, 1]),
    ],
)
def test_two_labels_of_one_output(y: Any, yes: list[int], classes: list[Any]) -> None:
    dtype = y.dtype if isinstance(y, np.ndarray) and y.dtype.kind in "iuf" else None
    check(targets(y, 1, SIGMOID), "binary", column(*yes), classes, dtype)
    check(targets(y, 1, SQUARED, squashed=True), "binary", column(*yes), classes, dtype)


@pytest.mark.parametrize("y", [[0.25, 0.5, 1.0], [0.2, 0.8], [0.0, 0.5], [0.5, 0.5]])
def test_shares_of_one_squashed_output_are_values(y: list[float]) -> None:
    check(targets(y, 1, SIGMOID), "values", column(*y), None)


@pytest.mark.parametrize("y", [[0, 1], [3, 1, 2], [0.5, -2.0], [True, False], [7]])
def test_numbers_of_one_output_are_values(y: list[float]) -> None:
    check(targets(y, 1, SQUARED), "values", column(*map(float, y)), None)
    check(targets(np.array(y)[:, np.newaxis], 1, SQUARED), "values", column(*map(float, y)), None)


def test_rows() -> None:
    check(targets(ROWS, 3), "classes", ROWS, range(3))
    check(targets(ROWS, 3, SQUARED), "classes", ROWS, range(3))
    check(targets(ROWS.tolist(), 3, SQUARED), "classes", ROWS, range(3))
    check(targets(ROWS.astype(float), 3, SQUARED), "values", ROWS, None)
    check(targets(ROWS, 3, SIGMOID), "multilabel", ROWS, None)
    check(targets(ROWS.astype(float), 3, SQUARED, squashed=True), "multilabel", ROWS, None)
    both = np.array([[1, 1], [0, 0]])
    check(targets(both, 2, SQUARED, squashed=True), "multilabel", both, None)
    check(targets(both, 2, SQUARED), "values", both, None)
    soft = np.array([[0.25, 0.75], [0.5, 0.5]])
    check(targets(np.asfortranarray(soft), 2), "classes", soft, range(2))
    check(targets(soft, 2, SIGMOID), "values", soft, None)
    check(targets(ROWS, 3, classes=FRUIT[:3]), "classes", ROWS, FRUIT[:3])


def test_values_that_can_be_read_as_they_are_are_not_copied() -> None:
    y = np.linspace(-1, 1, 6, dtype=F4).reshape(3, 2)
    assert targets(y, 2, SQUARED).values is y
    integers = np.array([0, 1, 2])
    assert targets(integers, 3).values is integers


def test_given_classes_are_the_order_of_the_outputs() -> None:
    check(targets(FRUIT, 3, classes=["fig", "pear", "apple"]), "classes", [1, 2, 0, 2], ["fig", "pear", "apple"])
    check(targets([2, 2], 3, classes=[4, 2, 0]), "classes", [1, 1], [4, 2, 0])
    check(targets([2, 2], 3, classes=range(3)), "classes", [2, 2], [0, 1, 2])
    check(targets(["no"], 1, SIGMOID, classes=("yes", "no")), "binary", column(1), ["yes", "no"])
    check(targets([0.5, 2.5], 3, classes=[0.5, 1.5, 2.5]), "classes", [0, 2], [0.5, 1.5, 2.5])
    check(targets([1, 1], 1, SQUARED, classes=[1, 2]), "binary", column(0, 0), [1, 2])


def task(classes: Any, kind: str = "classes") -> Task:
    return Task("a loss", kind, None if classes is None else np.array(classes))


def test_what_is_known_decides() -> None:
    fruit = task(["fig", "pear"])
    check(targets(["pear", "pear"], 2, known=fruit), "classes", [1, 1], ["fig", "pear"])
    check(targets([[0.5, 0.5]], 2, known=fruit), "classes", [[0.5, 0.5]], ["fig", "pear"])
    check(targets(["pear"], 2, known=fruit, classes=["fig", "pear"]), "classes", [1], ["fig", "pear"])
    sign = task([-1, 1], "binary")
    check(targets([-1.0, -1.0], 1, SIGMOID, known=sign), "binary", column(0, 0), [-1, 1])
    check(targets([0.25, 1.0], 1, SIGMOID, known=sign), "binary", column(0.25, 1), [-1, 1])
    check(targets([1, 0], 1, SIGMOID, known=task(None, "values")), "values", column(1, 0), None)
    check(targets(ROWS, 3, SQUARED, squashed=True, known=task(None, "multilabel")), "multilabel", ROWS, None)
    check(targets([True, False], 1, SIGMOID, known=task([0, 1], "binary")), "binary", column(1, 0), [0, 1])


def test_a_part_of_the_examples_may_be_of_one_class() -> None:
    check(targets([1, 1], 3, part=True), "classes", [1, 1], [0, 1, 2])
    check(targets([True, True], 2, part=True), "classes", [1, 1], [False, True])
    check(targets([1, 1], 1, SIGMOID, part=True), "binary", column(1, 1), [0, 1])
    check(targets([[0, 1], [0, 1]], 2, part=True), "classes", [[0, 1], [0, 1]], [0, 1])
    for y, outputs, loss in ((["a", "a"], 2, SOFTMAX), ([7, 7], 3, SOFTMAX), ([-1, -1], 1, SIGMOID)):
        with pytest.raises(InputError, match=r"classes=\[...\] with all labels"):
            targets(y, outputs, loss, part=True)


def test_frames_and_series() -> None:
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    for library in (pandas, polars):
        check(targets(library.Series(FRUIT), 3), "classes", FRUIT_AT, sorted(set(FRUIT)))
        check(targets(library.DataFrame({"a": FRUIT}), 3), "classes", FRUIT_AT, sorted(set(FRUIT)))
        check(targets(library.DataFrame({"a": [3, 1, 2]}), 3), "classes", [2, 0, 1], [1, 2, 3])
        check(targets(library.DataFrame({"a": [1, 0, 0], "b": [True, False, True]}), 2, SQUARED), "values",
              [[1, 1], [0, 0], [0, 1]], None)  # fmt: skip
        check(targets(library.DataFrame({"a": [0.5, 1.5]}), 1, SQUARED), "values", column(0.5, 1.5), None)
    check(targets(pandas.Categorical(FRUIT, ["pear", "fig", "apple", "plum"]), 3), "classes", FRUIT_AT, sorted(set(FRUIT)))
    check(targets(pandas.Series(FRUIT, dtype="category"), 3), "classes", FRUIT_AT, sorted(set(FRUIT)))
    check(targets(polars.Series(FRUIT, dtype=polars.Categorical), 3), "classes", FRUIT_AT, sorted(set(FRUIT)))
    check(targets(pandas.Series([3, 1, 2], dtype="Int64"), 3), "classes", [2, 0, 1], [1, 2, 3])
    for absent in (
        pandas.Series(["a", None, "b"]), pandas.Series([1, None, 2], dtype="Int64"), pandas.Series([1, None, 2]),
        polars.Series(["a", None, "b"]), polars.Series([1, None, 2]), pandas.Categorical(["a", None, "b"]),
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"1 labels are missing \(None or NaN\), the first in row 1; remove"):
            targets(absent, 2)
    with pytest.raises(InputTypeError, match="datetime64"):
        targets(pandas.Series(pandas.to_datetime(["2020-01-01", "2020-01-02"])), 2)


label_lists = st.one_of(
    st.lists(st.integers(-(2**62), 2**62), min_size=2),
    st.lists(st.integers(-20, 20), min_size=2),
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=2),
)


@given(label_lists, st.sampled_from([list, np.array, lambda y: np.array(y, object)]))
@settings(max_examples=200, deadline=None)
def test_the_way_there_and_back(labels: list[Any], form: Any) -> None:
    different = sorted(set(labels))
    if len(different) < 2:
        return
    found = targets(form(labels), len(different))
    made = Task("a loss", "classes", found.classes)
    assert decode(made, found.values).tolist() == labels
    again = targets(form(labels[:1]), len(different), known=made)
    assert again.values.tolist() == found.values[:1].tolist()
    assert Task.from_config(json.loads(json.dumps(made.to_config()))) == made


# --- what is refused ------------------------------------------------------------------------------------------------

NAN = float("nan")


@pytest.mark.parametrize(
    ("y", "outputs", "loss", "more", "error", "says"),
    [
        (
            ["a", "b", "c"],
            2,
            SOFTMAX,
            {},
            InputError,
            "y holds 3 different labels ('a', 'b', 'c'), the last layer has 2 units: use Dense(3)",
        ),
        ([1, 2, 3], 2, SOFTMAX, {"what": "validation y"}, InputError, "validation y holds 3 different labels"),
        ([5, 6], 3, SOFTMAX, {}, InputError, "use Dense(2), class indices 0 to 2, or classes=[...] with all labels"),
        (["a", "b", "c"], 1, SIGMOID, {}, InputError, "the last layer has 1 unit: use Dense(3)"),
        ([0, 1, 2], 1, SIGMOID, {}, InputError, "use Dense(3), targets from 0 to 1"),
        (list("abcdefgh"), 2, SOFTMAX, {}, InputError, "'e', ... (8 in all)"),
        ([1, 1], 3, SOFTMAX, {}, InputError, "y holds one class only (1); pass classes=[...]"),
        ([3, 3], 3, SOFTMAX, {}, InputError, "one class only (3); expected class indices 0 to 2"),
        (["a", "a"], 2, SOFTMAX, {}, InputError, "one class only ('a')"),
        ([True, True], 2, SOFTMAX, {}, InputError, "one class only (True)"),
        ([0, 0], 1, SIGMOID, {}, InputError, "one class only (0)"),
        (["a"], 1, SIGMOID, {}, InputError, "one class only ('a')"),
        ([[0, 1], [0, 1]], 2, SOFTMAX, {}, InputError, "one class only (1)"),
        (
            [Decimal("1.5"), 2],
            1,
            SQUARED,
            {},
            InputTypeError,
            "got Decimal in row 0 and int in row 1; convert them with numpy.asarray(y).astype(float)",
        ),
        (["a", 1], 2, SOFTMAX, {}, InputTypeError, "got str in row 0 and int in row 1; convert them with"),
        ([True, 2, "a"], 3, SOFTMAX, {}, InputTypeError, "got bool in row 0 and int in row 1"),
        ([{}, "a"], 2, SOFTMAX, {}, InputTypeError, "got dict in row 0 and str in row 1"),
        (["a", None, NAN], 2, SOFTMAX, {}, InputError, "2 labels are missing (None or NaN), the first in row 1"),
        ([[1, 2], [None, 4]], 2, SQUARED, {}, InputError, "1 labels are missing (None or NaN), the first in row 1, column 0"),
        (np.array([0.0, NAN]), 2, SOFTMAX, {}, InputError, "the first in row 1"),
        (np.array([0.0, 1.5]), 3, SOFTMAX, {"known": task([0, 1, 2])}, InputError, "loss='mean_squared_error'"),
        (
            np.array([[1, 2], [3, np.inf]]),
            2,
            SQUARED,
            {},
            InputError,
            "1 values are NaN, infinite or too large; the first, in row 1, column 1",
        ),
        (
            np.array([0, NAN, NAN]),
            1,
            SQUARED,
            {},
            InputError,
            "2 values are NaN, infinite or too large; the first, in row 1, is NaN",
        ),
        (np.array([0.5, NAN]), 1, SIGMOID, {}, InputError, "in row 1, is NaN"),
        (np.array([0, 1e39]), 1, SQUARED, {}, InputError, "too large for float32"),
        (np.array([[0], [1]]), 2, SOFTMAX, {}, InputError, "use y.ravel()"),
        (np.array([["a"], ["b"]]), 2, SOFTMAX, {}, InputError, "use y.ravel()"),
        (np.ones((2, 4)), 3, SQUARED, {}, InputError, "expected shape (n, 3), got (2, 4)"),
        (np.ones((2, 3, 1)), 3, SQUARED, {}, InputError, "expected shape (n, 3)"),
        (np.array([["a", "b"]]), 2, SQUARED, {}, InputTypeError, "expected numbers, got labels such as 'a'"),
        (["a", "b"], 1, SQUARED, {}, InputTypeError, "sigmoid_cross_entropy with one output"),
        (np.array([[0.5, 0.5], [0.5, 0.6]]), 2, SOFTMAX, {}, InputError, "add up to 1; row 1 adds up to 1.1"),
        (np.array([[1, 1], [0, 1]]), 2, SOFTMAX, {}, InputError, "use loss='sigmoid_cross_entropy' (several yeses"),
        (np.array([[7.5, 1.0]]), 2, SOFTMAX, {}, InputError, "use loss='mean_squared_error' (numbers)"),
        (np.array([0.5, 1.5]), 2, SOFTMAX, {}, InputError, "end in Dense(1) and use loss='mean_squared_error'"),
        (np.array([0.0, 1.0]), 2, SQUARED, {}, InputError, ".astype(int)"),
        (np.array([0.0, np.inf]), 2, SOFTMAX, {}, InputError, "loss='mean_squared_error'"),
        ([0.5, 1.5], 1, SOFTMAX, {}, InputError, "loss='mean_squared_error' (numbers)"),
        (np.array([[1.5, -0.5]]), 2, SOFTMAX, {}, InputError, "its least is -0.5"),
        ([0.5, 1.5], 1, SIGMOID, {}, InputError, "targets from 0 to 1"),
        ([0, 1], 1, SOFTMAX, {}, InputError, "at least two outputs"),
        ([], 2, SOFTMAX, {}, InputError, "at least one example"),
        ([0, 1], 2, SOFTMAX, {"n": 3}, InputError, "one target for each of the 3 examples, got shape (2,)"),
        (None, 2, SOFTMAX, {"n": 3}, InputTypeError, "got a NoneType"),
        ("ab", 2, SOFTMAX, {"n": 2}, InputError, "one target for each"),
        ([[1, 2], [3]], 2, SQUARED, {}, FastnnError, "y: expected"),
        ([2**70, 1], 2, SOFTMAX, {}, InputError, "at most 64 bits"),
        (np.array([2**64 - 1, 1], np.uint64), 2, SOFTMAX, {}, InputError, "expected integers up to"),
        (np.array([b"a", b"b"]), 2, SOFTMAX, {}, InputTypeError, ".astype(str)"),
        (np.array([1j, 2]), 2, SOFTMAX, {}, InputTypeError, "complex128"),
        (np.ma.array([0, 1], mask=[0, 1]), 2, SOFTMAX, {}, InputError, "1 labels are masked"),
        (
            ["a", "d", "d"],
            2,
            SOFTMAX,
            {"classes": ["a", "b"]},
            InputError,
            "expected the labels 'a', 'b', got 'd' in row 1 (2 such in all)",
        ),
        (
            ["pear", "fog"],
            2,
            SOFTMAX,
            {"known": task(["fig", "pear"])},
            InputError,
            "got 'fog' in row 1 (1 such in all); did you mean 'fig'?",
        ),
        ([0, 1], 2, SOFTMAX, {"known": task(["fig", "pear"])}, InputError, "got 0 in row 0"),
        (["0"], 2, SOFTMAX, {"known": task([0, 1])}, InputError, "got '0' in row 0"),
        ([1, 0, 3], 3, SOFTMAX, {"known": task([0, 1, 2])}, InputError, "got 3 in row 2"),
        ([7, 5, 6], 2, SOFTMAX, {"known": task([7, 5])}, InputError, "got 6 in row 2"),
        ([0, 1], 2, SQUARED, {"known": task(None, "values")}, InputError, "trained for values"),
        ([[0, 1]], 2, SOFTMAX, {"known": task(None, "multilabel")}, InputError, "trained for multilabel"),
        (["a", "b"], 2, SOFTMAX, {"classes": ["a", "b", "c"]}, InputError, "the last layer has 2 units: use Dense(3)"),
        (["a", "b"], 1, SIGMOID, {"classes": ["a", "b", "c"]}, InputError, "1 unit, which says no or yes: use Dense(3)"),
        (["a", "b"], 2, SOFTMAX, {"classes": ["a", "a"]}, InputError, "expected different labels, got 'a' twice"),
        (
            ["a", "b"],
            2,
            SOFTMAX,
            {"classes": ["b", "a"], "known": task(["a", "b"])},
            InputError,
            "trained for the classes 'a', 'b'",
        ),
        ([1.0], 1, SQUARED, {"classes": [1, 2], "known": task(None, "values")}, InputError, "trained for values"),
        (["a", "b"], 2, SOFTMAX, {"classes": "ab"}, InputError, "list of at least two labels"),
    ],
)
def test_what_cannot_be_is_said(y: Any, outputs: int, loss: Loss, more: dict[str, Any], error: type, says: str) -> None:
    with pytest.raises(error, match=re.escape(says)):
        targets(y, outputs, loss, **more)


def test_sparse_targets_are_refused() -> None:
    from scipy import sparse

    with pytest.raises(InputTypeError, match=r"sparse csr_array; convert it with \.toarray\(\)"):
        targets(sparse.csr_array(ROWS), 3, n=3)


# --- tasks ----------------------------------------------------------------------------------------------------------

TASKS = [
    task(["fig", "pear", "ä"]), task([3, 1, 2]), task([False, True]), task([-1.0, 1.0], "binary"), task([0, 1], "binary"),
    task(None, "values"), task(None, "multilabel"),
]  # fmt: skip


@pytest.mark.parametrize("made", TASKS)
def test_a_task_goes_through_json(made: Task) -> None:
    back = Task.from_config(json.loads(json.dumps(made.to_config())))
    assert back == made
    assert sum(back == other for other in TASKS) == 1
    if made.classes is not None:
        assert back.classes is not None
        assert back.classes.dtype == made.classes.dtype
        assert not made.classes.flags.writeable


def test_tasks_of_other_classes_are_others() -> None:
    assert task([0, 1]) != task([False, True])
    assert task([1, 2]) != task([1.0, 2.0])
    assert task([1, 2]) != task([2, 1])
    assert task([1, 2]) != Task("another loss", "classes", np.array([1, 2]))
    assert task([1, 2]) == Task("a loss", "classes", np.array([1, 2], np.int8))
    assert task([1, 2]) != "a loss"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "class"}, "did you mean 'classes'"),
        ({"kind": "values"}, "expected no classes"),
        ({"classes": None}, "expected classes for the kind 'classes'"),
        ({"kind": "binary"}, "two classes"),
        ({"classes": [1, 2, 1]}, "different labels, got 1 twice"),
        ({"classes": [1, "2", 3]}, "one type"),
        ({"classes": [True, 2]}, "one type"),
        ({"classes": [1.0, NAN]}, "missing"),
        ({"classes": [1.0, float("inf")]}, "finite"),
        ({"classes": [1]}, "at least two"),
        ({"classes": [[1, 2], [3, 4]]}, "at least two"),
        ({"classes": [2**80, 1]}, "64 bits"),
        ({"classes": "abc"}, "list of classes"),
        ({"loss": 3}, "by name"),
        ({"kind": None}, "by name"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_a_config_that_is_no_task(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Task.from_config({"loss": "a loss", "kind": "classes", "classes": [1, 2, 3], **changes})


def test_decode() -> None:
    assert decode(task(["no", "yes"], "binary"), np.array([1, 0])).tolist() == ["yes", "no"]
    assert decode(task(None, "multilabel"), ROWS) is ROWS


# --- weights --------------------------------------------------------------------------------------------------------

LABELS = targets(FRUIT, 3)
YES = targets([-1, 1, 1, 1], 1, SIGMOID)


def weighed(found: Targets, sample: Any = None, by_class: Any = None) -> Any:
    n = len(found.values)
    outputs = 3 if found.values.ndim == 1 else found.values.shape[1]
    return weights(found, n, sample, by_class, F4, outputs)


def test_weights_multiply() -> None:
    assert weighed(LABELS) is None
    both = weighed(LABELS, [1, 2, 3, 4], {"apple": 0.5, "fig": 2})
    assert both.dtype == F4
    assert both.tolist() == [1, 1, 6, 2]
    np.testing.assert_allclose(weighed(LABELS, None, "balanced"), [4 / 3, 4 / 6, 4 / 3, 4 / 6], rtol=1e-6)
    assert weighed(YES, None, {-1: 3}).tolist() == [3, 1, 1, 1]
    np.testing.assert_allclose(weighed(YES, None, "balanced"), [2, 2 / 3, 2 / 3, 2 / 3], rtol=1e-6)
    assert weighed(targets(ROWS, 3), None, {2: 5.0}).tolist() == [1, 5, 1]
    two = targets(["a", "b"], 3, classes=["a", "b", "c"])
    assert weighed(two, None, "balanced").tolist() == [1, 1]


@pytest.mark.parametrize(
    ("found", "sample", "by_class", "error", "says"),
    [
        (LABELS, np.ones(3), None, InputError, "expected 4 numbers, got float64 of shape (3,)"),
        (LABELS, np.ones((4, 1)), None, InputError, "use sample_weight.ravel()"),
        (LABELS, ["a"] * 4, None, InputError, "expected 4 numbers"),
        (LABELS, [1, NAN, 1, -1], None, InputError, "got nan in row 1 (2 such in all)"),
        (LABELS, [1, 1, -1, 1], None, InputError, "at least 0, got -1 in row 2"),
        (LABELS, np.zeros(4), None, InputError, "add up to 0"),
        (LABELS, np.full(4, 1e-60), None, InputError, "add up to 0"),
        (LABELS, np.full(4, 1e39), None, InputError, "too large for float32"),
        (LABELS, None, {"appel": 1.0}, InputError, "'appel' is none of the labels; did you mean 'apple'?"),
        (LABELS, None, {0: 1.0}, InputError, "0 is none of the labels; known are 'apple', 'fig', 'pear'"),
        (LABELS, None, {"fig": -1.0}, InputError, "got -1.0 for 'fig'"),
        (LABELS, None, {"fig": NAN}, InputError, "got nan for 'fig'"),
        (LABELS, None, {"fig": "1"}, InputError, "got '1' for 'fig'"),
        (LABELS, None, "heavy", InputError, "\"balanced\", got 'heavy'"),
        (LABELS, None, 3.0, InputTypeError, "got a float"),
        (targets([0.5, 1.0], 1, SQUARED), None, {0: 1.0}, InputError, "use sample_weight"),
    ],
)
def test_weights_that_cannot_be(found: Targets, sample: Any, by_class: Any, error: type, says: str) -> None:
    with pytest.raises(error, match=re.escape(says)):
        weighed(found, sample, by_class)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize(
    "labels", [(2**63 - 2, 2**63 - 1), (-(2**63), -(2**63) + 1), (-(2**63), 2**63 - 1), (-1, 0), (5, 6), (6, 8)], ids=str
)
def test_labels_at_the_ends_of_int64(labels: tuple[int, int], outputs: int) -> None:
    X = np.linspace(-1, 1, 40, dtype=np.float32)[:, np.newaxis]
    y = np.array(labels, np.int64)[(X[:, 0] > 0).astype(int)]
    model = fastnn.Sequential([fastnn.Dense(outputs)], seed=0)
    loss = "softmax_cross_entropy" if outputs == 2 else "sigmoid_cross_entropy"
    options: dict[str, Any] = {"loss": loss, "optimizer": fastnn.Adam(0.2), "batch_size": 10, "epochs": 20, "verbose": 0}
    model.fit(X, y, **options)
    assert model.classes_.tolist() == list(labels)
    assert (model.predict(X) == y).mean() > 0.9
    other = 7 if 7 not in labels else 9
    with pytest.raises(InputError, match=f"{other}"):
        model.evaluate(X[:2], [labels[0], other])


def test_long_floating_point_labels_are_float64(tmp_path: Any) -> None:
    y = np.arange(40) % 3
    model = fastnn.Sequential([fastnn.Dense(3)], seed=0)
    model.fit(np.eye(40), y.astype(np.longdouble), batch_size=20, epochs=1, verbose=0)
    model.save(tmp_path / "m.safetensors")
    assert fastnn.load(tmp_path / "m.safetensors").predict(np.eye(40)).dtype == np.float64
