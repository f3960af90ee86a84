"""What X may be: every kind gives the rows that its dense twin gives, and everything else is refused in one line."""

from __future__ import annotations

import mmap
import re
import warnings
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pytest
import scipy.sparse

import fastnn
from fastnn import arrays, errors
from fastnn.data import inputs

N, F = 7, 3


def numbers(dtype: Any = "float32") -> np.ndarray:
    """Integers, some of them 0, that every dtype holds."""
    return np.random.default_rng(0).integers(0, 4, (N, F)).astype(dtype)


def rows(X: Any, dtype: str = "float32", names: Any = None, name: str = "X") -> np.ndarray:
    """All rows of X as a program reads them, dense, brought together in two ways that must agree."""
    found = inputs.readable(inputs.read(X, None, name, names), np.dtype(dtype), name)
    assert found.dtype in inputs.READABLE
    if isinstance(found, np.ndarray):
        assert inputs.is_readable(found)
        return found
    whole = found[:]
    assert whole.dtype == found.dtype
    order = np.array([len(found) - 1, 0, 0, 1])[: len(found)]
    out = np.full((len(order), *found.shape[1:]), 9, found.dtype)
    found.take(order, out)
    np.testing.assert_array_equal(out, whole[order])
    return whole


# --- arrays ---------------------------------------------------------------------------------------------------------------


class Lender:
    """An array of another library, by `__array__` alone."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.array


def frozen(X: np.ndarray) -> np.ndarray:
    X = X.copy()
    X.flags.writeable = False
    return X


def unaligned(X: np.ndarray) -> np.ndarray:
    raw = np.zeros(X.nbytes + 1, np.uint8)[1:]
    made = raw.view(X.dtype).reshape(X.shape)
    made[...] = X
    return made


ARRAYS = {
    "as it is": lambda X: X,
    "every second row": lambda X: np.repeat(X, 2, axis=0)[::2],
    "backwards": lambda X: X[::-1].copy()[::-1],
    "Fortran order": np.asfortranarray,
    "read-only": frozen,
    "unaligned": unaligned,
    "matrix": lambda X: X.view(np.matrix),
    "nothing masked": np.ma.masked_array,
    "__array__": Lender,
    "broadcast": lambda X: np.broadcast_to(X[None], (1, *X.shape))[0],
    **{dtype: lambda X, dtype=dtype: X.astype(dtype) for dtype in (
        "float16", ">f4", ">f8", "float64", "longdouble", "int8", "uint8", "int64", "uint64", ">i4"
    )},
}  # fmt: skip


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_every_kind_give_their_numbers_and_are_left_alone(kind: str) -> None:
    X = numbers()
    given = ARRAYS[kind](X)
    kept = np.asarray(given).copy()
    np.testing.assert_array_equal(rows(given), X)
    np.testing.assert_array_equal(np.asarray(given), kept)
    assert np.asarray(given).dtype == kept.dtype


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_what_can_be_read_as_it_is_is_not_copied(dtype: str) -> None:
    X = numbers(dtype)
    assert np.shares_memory(rows(X), X)


def test_booleans_are_zero_and_one() -> None:
    np.testing.assert_array_equal(rows(numbers() > 1), (numbers() > 1).astype("float32"))


DATES = np.array([["2020-01-01"]], "datetime64[D]")

ONE_AXIS = scipy.sparse.coo_array(np.ones(3))
"""From SciPy 1.13 on; before, it is a row."""

REFUSED = {
    "strings in lists": ([[1, 2, 3], [4, 5, "six"]], TypeError, r"expected numbers, got 'six' in row 1, column 2"),
    "bytes in lists": ([b"a"], TypeError, "expected numbers, got b'a' in row 0;"),
    "complex in lists": ([(1, 2, 3j)], TypeError, "got 3j in row 0, column 2"),
    "huge integers": ([[2**70, 1, 1]], TypeError, "got dtype object"),
    "a row that is shorter": ([[1, 2, 3], [4, 5, 6], [7]], ValueError, r"got row 2 of shape \(1,\), and row 0 of shape \(3,\)"),
    "a row that is ragged": ([[[1], [2, 3]], [[1], [2]]], ValueError, "got row 0 that is ragged itself"),
    "a list of one row": ([1, 2, 3], ValueError, r"got shape \(3,\); use \[X\] for one example or \[\[x\] for x in X\]"),
    "no rows in a list": ([], ValueError, r"got shape \(0,\)"),
    "other columns in lists": ([[1, 2]], ValueError, r"expected shape \('n', 3\), got \(1, 2\)"),
    "dict": ({"a": [1]}, TypeError, "got a dict"),
    "nothing": (None, TypeError, "got a NoneType"),
    "object": (np.array([[1, "a"]], object), TypeError, r"got dtype object; convert it with X\.astype\(float\)"),
    "strings": (np.array([["a"]]), TypeError, f"got dtype {np.dtype('U1')}; encode strings"),
    "bytes": (np.array([[b"a"]]), TypeError, f"got dtype {re.escape(str(np.dtype('S1')))}; encode strings"),
    "complex": (np.ones((2, 2), complex), TypeError, r"got dtype complex128; use X\.real"),
    "dates": (DATES, TypeError, "datetime64.*dates to numbers"),
    "times": (DATES - DATES, TypeError, "timedelta64.*times to numbers"),
    "fields": (np.zeros((2, 2), "f4,i4"), TypeError, "structured_to_unstructured"),
    "a number": (np.float32(3), ValueError, r"got shape \(\); use X\.reshape"),
    "one axis": (np.zeros(3), ValueError, r"got shape \(3,\); use X\.reshape\(1, -1\)"),
    "other columns": (np.zeros((2, 4)), ValueError, r"expected shape \('n', 3\), got \(2, 4\)"),
    "masked": (np.ma.masked_array(np.ones((2, 3)), [[0, 0, 0], [0, 1, 1]]), ValueError, r"2 values.*row 1, column 1.*filled"),
    "a series": (pandas.Series([1.0, 2.0]), ValueError, "got shape"),
    "lazy": (polars.LazyFrame({"a": [1.0]}), TypeError, r"X\.collect\(\)"),
    "complex sparse": (scipy.sparse.eye(3, dtype=complex), TypeError, "complex128"),
    **({"sparse, one axis": (ONE_AXIS, ValueError, r"got shape \(3,\)")} if ONE_AXIS.ndim == 1 else {}),
    "sparse, other columns": (scipy.sparse.eye(4), ValueError, r"expected shape \('n', 3\), got \(4, 4\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_array_of_numbers_is_refused_with_a_cure(case: str) -> None:
    X, kind, message = REFUSED[case]
    with pytest.raises(errors.FastnnError, match=message) as raised:
        inputs.read(X, (3,))
    assert isinstance(raised.value, kind)
    assert "\n" not in str(raised.value)


SPOILT = {"array": lambda X: X, "csr": scipy.sparse.csr_matrix, "csc": scipy.sparse.csc_array, "Fortran": np.asfortranarray}


@pytest.mark.parametrize("kind", SPOILT)
@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e200])
def test_the_first_value_that_is_not_finite_is_named(kind: str, value: float) -> None:
    X = numbers("float64")
    X[2, 1] = X[5, 0] = value
    message = r"validation X: 2 values are NaN, infinite or too large, the first in row 2, column 1; remove"
    with pytest.raises(errors.InputError, match=message):
        rows(SPOILT[kind](X), name="validation X")


def test_a_value_that_only_float64_holds_is_good_for_a_model_of_float64() -> None:
    X = numbers("float64")
    X[2, 1] = 1e200
    assert rows(X, "float64") is X
    assert rows(np.ones((2, 2), "float16")).dtype == np.float32


def test_places_in_later_blocks_and_in_images_are_counted_from_the_start() -> None:
    X = np.zeros((2**19, 5), np.float32)
    X[400_000, 4] = np.nan
    with pytest.raises(errors.InputError, match=r"1 values .* row 400000, column 4;"):
        rows(X)
    images = np.zeros((4, 3, 3))
    images[1, 2, 0] = np.inf
    with pytest.raises(errors.InputError, match=r"row 1, position \(2, 0\);"):
        rows(images)


def test_predictions_name_the_place_too() -> None:
    model = fastnn.Sequential([fastnn.Dense(2)], seed=0).build(3)
    X = np.zeros((600, 3))
    X[599, 2] = np.nan
    with pytest.raises(errors.InputError, match="1 values are NaN, infinite or too large, the first in row 599, column 2;"):
        model(X)
    with pytest.raises(errors.InputError, match="row 599, column 2;"):
        model(scipy.sparse.csr_array(X))


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e39])
@pytest.mark.parametrize("make", [np.asarray, np.ndarray.tolist, scipy.sparse.csr_matrix, pandas.DataFrame])
def test_what_is_not_finite_is_told_in_the_same_words_everywhere(make: Any, value: float) -> None:
    """Also where there are some in several of the blocks that predictions are made in."""
    X, y = np.ones((3000, 3)), np.arange(3000) % 2
    X[1, 2] = X[2999, 0] = value
    model = fastnn.Sequential([fastnn.Dense(2)], seed=0).build(3)
    model.fit(np.ones((4, 3)), [0, 1, 0, 1], epochs=1, batch_size=4, verbose=0)
    given = make(X)
    if isinstance(given, pandas.DataFrame):
        given.columns = ["a", "b", "c"]
    said = set()
    for call in (model.predict, model.predict_proba, lambda X: model.evaluate(X, y), lambda X: model.fit(X, y, verbose=0)):
        with pytest.raises(errors.InputError) as caught:
            call(given)
        said.add(str(caught.value))
    (message,) = said
    assert "X: 2 values are NaN, infinite or too large, the first in row 1, column 2" in message
    assert f"(it is {value:g}" in message
    assert ("scale the features, or make the model with dtype='float64'" in message) == np.isfinite(value)


def test_a_scale_that_makes_inputs_infinite() -> None:
    model = fastnn.Sequential([fastnn.Dense(2)], seed=0, input_scale=1e10).build(3)
    with np.errstate(over="ignore"), pytest.raises(errors.InputError, match="1 values are NaN or infinite in float32"):
        model(np.array([[1, 1e38, 1]]))


# --- lists ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "X", [[[1, 2, 3], [4, 5, 6]], ([1, 2.5, 3], (4, True, np.float32(6))), [np.ones(3), np.zeros(3)], [[[1, 2], [3, 4]]]]
)
def test_lists_are_the_arrays_that_numpy_makes_of_them(X: Any) -> None:
    np.testing.assert_array_equal(rows(X), np.asarray(X, "float32"))


def test_lists_are_taken_wherever_arrays_are() -> None:
    array, y = numbers().astype("float64"), np.arange(len(numbers())) % 2
    found = []
    for X in (array, array.tolist()):
        model = fastnn.Sequential([fastnn.Dense(2)], seed=0)
        history = model.fit(X, y, epochs=2, batch_size=2, validation_data=(X, y), verbose=0)
        model.partial_fit(X, y)
        model.fit([(X, y), (X, y.tolist())], epochs=1, verbose=0)  # a list of mini-batches
        found.append((dict(history), model.evaluate(X, y), model(X), model.predict(X), model.predict_proba(X)))
    for of_array, of_lists in zip(*found, strict=True):
        np.testing.assert_equal(of_lists, of_array)


# --- sparse matrices --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "dok", "dia", "bsr"])
@pytest.mark.parametrize("make", [scipy.sparse.csr_array, scipy.sparse.csr_matrix])
def test_sparse_matrices_of_every_form_give_the_rows_of_their_dense_twin(form: str, make: Any) -> None:
    X = numbers()
    given = make(X).asformat(form)
    np.testing.assert_array_equal(rows(given), X)
    np.testing.assert_array_equal(given.toarray(), X)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int64", "float32", "float64", "longdouble"])
def test_sparse_numbers_of_every_dtype(dtype: str) -> None:
    X = numbers(dtype)
    found = rows(scipy.sparse.csr_array(X))
    assert found.dtype == rows(X).dtype
    np.testing.assert_array_equal(found, rows(X))


def test_entries_given_twice_are_summed_and_the_callers_matrix_is_left_alone() -> None:
    data, columns, starts = np.array([3e38, 1, 3e38], np.float32), np.array([1, 0, 1]), np.array([0, 3])
    X = scipy.sparse.csr_matrix((data.copy(), columns.copy(), starts), shape=(1, 2))
    with pytest.raises(errors.InputError, match=r"1 values .* the first in row 0, column 1;"):
        rows(X)
    X.data[:] = [2, 1, 3]
    np.testing.assert_array_equal(rows(X), [[1, 5]])
    np.testing.assert_array_equal(X.indices, columns)
    np.testing.assert_array_equal(X.data, [2, 1, 3])


def test_a_sparse_matrix_with_a_column_out_of_range_is_refused() -> None:
    X = scipy.sparse.csr_array(numbers())
    X.indices[0] = 1000
    with pytest.raises(errors.InputError, match="damaged"):
        inputs.read(X, None)


def test_rows_without_entries_and_matrices_without_rows() -> None:
    np.testing.assert_array_equal(rows(scipy.sparse.csr_array((3, 2))), np.zeros((3, 2)))
    assert inputs.read(scipy.sparse.csr_array((0, 2)), (2,)).array.shape == (0, 2)


# --- frames -----------------------------------------------------------------------------------------------------------------

PANDAS = {
    "one dtype": {"a": np.array([1, 2], "float32"), "b": np.array([3, 4], "float32")},
    "several": {"a": np.array([1, 2]), "b": np.array([1.5, 2], "float32"), "c": [True, False]},
    "nullable": {"a": pandas.array([1, 2], dtype="Int64"), "b": pandas.array([True, False], dtype="boolean")},
    "arrow": {"a": pandas.array([1, 2], dtype="int64[pyarrow]"), "b": pandas.array([1.5, 2], dtype="Float32")},
    "sparse": {"a": pandas.arrays.SparseArray([0.0, 1.0]), "b": [1, 2]},
    "bytes": {"a": np.array([1, 2], "uint8"), "b": np.array([3, 255], "uint8")},
}


@pytest.mark.parametrize("case", PANDAS)
def test_frames_of_pandas(case: str) -> None:
    columns = PANDAS[case]
    found = inputs.read(pandas.DataFrame(columns), (len(columns),))
    assert found.names == tuple(columns)
    np.testing.assert_array_equal(rows(found), np.stack([np.asarray(c, float) for c in columns.values()], 1))


@pytest.mark.parametrize("dtypes", [("Float32", "Float32"), ("Int8", "Float64"), ("Boolean", "UInt8"), ("Boolean", "Boolean")])
def test_frames_of_polars(dtypes: tuple[str, str]) -> None:
    X = polars.DataFrame({"a": [1, 0], "b": [0, 1]}).cast({n: getattr(polars, d) for n, d in zip("ab", dtypes, strict=True)})
    found = inputs.read(X, (2,))
    assert found.names == ("a", "b")
    np.testing.assert_array_equal(rows(found), [[1, 0], [0, 1]])


@pytest.mark.parametrize("library", [pandas, polars])
def test_frames_are_taken_by_the_names_of_training(library: Any) -> None:
    X = library.DataFrame({"b": [1.0, 2.0], "age": [3.0, 4.0]})
    np.testing.assert_array_equal(rows(X, names=("age", "b")), [[3, 1], [4, 2]])
    np.testing.assert_array_equal(rows(np.asarray(X), names=("age", "b")), [[1, 3], [2, 4]])
    with pytest.raises(errors.InputError, match="the columns 'agee' of training are missing; did you mean 'age'"):
        inputs.read(X, None, feature_names=("agee", "b"))
    with pytest.raises(errors.InputError, match="the columns 'age' were not there in training"):
        inputs.read(X, None, feature_names=("b",))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pandas.Series(["red", None]), r"'b' hold text.*such as 'red'; encode.*pandas\.get_dummies\(X, columns=\['b'\]\)"),
        (pandas.Series(["red", "blue"], dtype="category"), r"'b' hold text or categories.*get_dummies"),
        (pandas.to_datetime(pandas.Series(["2020-01-01"] * 2)), r"'b' hold no numbers, such as .*2020.*X\.drop"),
        (pandas.Series([1j, 2]), "'b' hold no numbers, such as 1j"),
        (polars.Series(["red", None]), r"'b' hold text.*such as 'red'; encode.*X\.to_dummies\(\['b'\]\)"),
        (polars.Series(["red", "blue"], dtype=polars.Categorical), r"'b' hold text or categories.*X\.to_dummies"),
        (polars.Series(["2020-01-01"] * 2).str.to_date(), r"'b' hold no numbers, such as .*2020.*X\.drop"),
        (pandas.array([pandas.NA, "red"], dtype="string"), r"'b' hold text or categories, such as 'red'; .*get_dummies"),
        (pandas.Categorical([None, "red"]), r"'b' hold text or categories, such as 'red'"),
        (
            np.array([1, 2.5], object),
            r"'b' hold numbers as objects, such as 1; .*X\.astype\(dict\.fromkeys\(\['b'\], float\)\)",
        ),
        (np.array([pandas.NA, 2], object), r"'b' hold numbers as objects, such as 2; .*X\.astype"),
        ([Decimal(1), Decimal("2.5")], r"'b' hold numbers as objects, such as Decimal\('1'\); .*X\.astype"),
        (pandas.Series(["1", "2.5"]), r"'b' hold numbers as text, such as '1'; .*pandas\.to_numeric"),
        (
            pandas.Series([[1.0, 2.0], [3.0, 4.0]]),
            r"'b' hold lists or arrays, such as \[1\.0, 2\.0\]; .*numpy\.stack\(X\['b'\]\)",
        ),
        (pandas.Series([np.ones(2), np.ones(2)]), "'b' hold lists or arrays, such as array"),
        (np.array([None, None], object), r"'b' hold nothing but missing values; .*X\.fillna"),
        (np.array(["red", 2], object), "'b' hold text beside other values, such as 'red'; .*get_dummies"),
        (pandas.period_range("2020", periods=2), "'b' hold no numbers, such as Period"),
        (polars.Series([[1.0, 2.0], [3.0, 4.0]]), r"'b' hold lists or arrays, such as .*; .*numpy\.stack\(X\['b'\]\)"),
        (polars.Series([[1.0, 2.0]] * 2, dtype=polars.Array(polars.Float64, 2)), "'b' hold lists or arrays"),
        (
            polars.Series([Decimal("1.5")] * 2),
            r"'b' hold numbers as objects.*X\.cast\(dict\.fromkeys\(\['b'\], polars\.Float64\)\)",
        ),
        (polars.Series(["1", "2"]), r"'b' hold numbers as text, such as '1'; .*X\.cast"),
        (polars.Series([{"x": 1}] * 2), r"'b' hold no numbers, such as \{'x': 1\}; .*X\.drop"),
        (pandas.array([1, None], dtype="Int64"), r"the column 'b' misses 1 values, the first in row 1; .*X\.fillna"),
        (polars.Series([None, 2]), r"the column 'b' misses 1 values, the first in row 0; .*X\.fill_null"),
        (pandas.Series([1.0, np.nan]), r"1 values are NaN.*the first in row 1, column 1 \('b'\)"),
        (polars.Series([1.0, np.inf]), r"1 values are NaN.*the first in row 1, column 1 \('b'\)"),
    ],
)
def test_columns_that_hold_no_numbers_are_named(column: Any, message: str) -> None:
    library = polars if isinstance(column, polars.Series) else pandas
    with pytest.raises(errors.FastnnError, match=message) as raised:
        inputs.read(library.DataFrame({"a": [1, 2], "b": column}), None)
    assert "\n" not in str(raised.value)
    if "values are NaN" not in message:  # the same reader, with its own words for numbers that are not finite
        with pytest.raises(errors.FastnnError, match=message):
            fastnn.Standardizer().fit(library.DataFrame({"a": [1, 2], "b": column}))


@pytest.mark.parametrize("library", [pandas, polars])
def test_a_row_or_column_of_a_frame_is_no_table(library: Any) -> None:
    frame = library.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    for series in (frame["a"], frame.iloc[0] if library is pandas else frame["b"]):
        with pytest.raises(
            errors.InputError, match=r"a frame of one row is frame\[i : i \+ 1\], one of one column frame\[\[name\]\]"
        ):
            inputs.read(series, None)
    assert inputs.read(frame[0:1], None).array.shape == (1, 2)
    assert inputs.read(frame[["a"]], None).array.shape == (2, 1)


def test_tensors_that_numpy_does_not_know() -> None:
    """Small floating-point numbers are read as float32, which holds them; views that were not computed yet are computed."""
    torch = pytest.importorskip("torch")
    values = torch.tensor([[1.0, 2.5], [-0.75, 4.0]])
    for tensor in (values.bfloat16(), values.to(torch.float8_e5m2), values.half(), values.requires_grad_()):
        np.testing.assert_array_equal(rows(tensor), tensor.detach().float().numpy())
    negative = torch.tensor([[1 + 2j, 3 - 4j]]).conj().imag
    assert negative.is_neg()
    np.testing.assert_array_equal(rows(negative), [[-2, 4]])
    with warnings.catch_warnings(action="ignore"):  # PyTorch calls these a beta version, and deprecated
        csr = values.detach().to_sparse_csr()
        quantized = torch.quantize_per_tensor(values.detach(), 0.25, 0, torch.qint8)
    for tensor, says in (
        (values.detach().to_sparse(), r"layout torch\.sparse_coo; convert it with \.to_dense\(\)"),
        (csr, r"layout torch\.sparse_csr; convert it with \.to_dense\(\)"),
        (quantized, r"quantized one; convert it with \.dequantize\(\)"),
        (torch.ones(2, 2, dtype=torch.complex64).conj(), r"complex64; use X\.real"),
        (torch.ones(2, 2, device="meta"), "an array that NumPy can read, got a Tensor: .*meta"),
    ):
        with pytest.raises(errors.InputTypeError, match=says):
            inputs.read(tensor, None)
        with pytest.raises(errors.InputTypeError, match="expected"):
            fastnn.Standardizer().fit(tensor)


def test_small_numbers_of_jax() -> None:
    jnp = pytest.importorskip("jax.numpy")
    X = np.array([[1.0, 2.5], [-0.75, 4.0]], np.float32)
    np.testing.assert_array_equal(rows(jnp.asarray(X, jnp.bfloat16)), X)


def test_columns_need_different_names() -> None:
    with pytest.raises(errors.InputError, match=r"got 0 \(int\); set X\.columns"):
        inputs.read(pandas.DataFrame(numbers()), None)
    with pytest.raises(errors.InputError, match="got 'a' 2 times"):
        inputs.read(pandas.DataFrame(numbers(), columns=["a", "b", "a"]), None)


def test_columns_of_several_levels_are_named_as_the_message_says() -> None:
    X = pandas.DataFrame(numbers(), columns=pandas.MultiIndex.from_tuples([("a", "x"), ("a", "y"), ("b", "x")]))
    with pytest.raises(errors.InputError, match=r"got \('a', 'x'\) \(tuple\); set X.columns = X.columns.map\(str\)"):
        inputs.read(X, None)
    X.columns = X.columns.map(str)
    assert inputs.read(X, None).names == ("('a', 'x')", "('a', 'y')", "('b', 'x')")


def test_long_lists_of_columns_are_cut_short() -> None:
    X = pandas.DataFrame({f"c{i}": ["x" * 1000] for i in range(1000)})
    with pytest.raises(errors.InputTypeError) as raised:
        inputs.read(X, None)
    assert len(str(raised.value)) < 600
    with pytest.raises(errors.InputError) as missing:
        inputs.read(X, None, feature_names=[f"qqq{i}" for i in range(1000)])
    assert len(str(missing.value)) < 600


def sparse_frame(*columns: Any, fill: Any = 0) -> pandas.DataFrame:
    fills = [False if isinstance(column[0], bool) else fill for column in columns]
    made = [pandas.arrays.SparseArray(c, fill_value=fill) for c, fill in zip(columns, fills, strict=True)]
    return pandas.DataFrame({f"c{index}": column for index, column in enumerate(made)})


@pytest.mark.parametrize(
    "columns",
    [([0.0, 1.5, 0.0], [0.0, 0.0, 2.0]), ([0, 1, 0], [0, 0, 2.5]), ([0, 3, 0], [0, 0, 2]),
     ([True, False, False], [0.0, 0.5, 0.0]), ([True, False, False], [False, True, False])],
)  # fmt: skip
def test_sparse_columns_of_pandas_are_made_dense_in_blocks(columns: Any) -> None:
    X = sparse_frame(*columns)
    given = inputs.read(X, (2,))
    assert isinstance(given.array, inputs.SparseRows)
    assert given.array.matrix.nnz == sum(value != 0 for column in columns for value in column)
    np.testing.assert_array_equal(rows(X, names=("c0", "c1")), np.array(columns, "float32").T)


def test_sparse_columns_of_pandas_that_are_spoilt_or_not_of_zeros() -> None:
    with pytest.raises(errors.InputError, match=r"1 values are NaN.* row 1, column 1 \('c1'\); .*it is nan"):
        rows(sparse_frame([0, 1.0, 0], [0, np.nan, 0]))
    ones = sparse_frame([1, 1.0, 2], [1, 1, 3.0], fill=1)
    np.testing.assert_array_equal(rows(ones), [[1, 1], [1, 1], [2, 3]])
    mixed = sparse_frame([0, 1.0, 0]).assign(dense=[1, 2, 3])
    np.testing.assert_array_equal(rows(mixed), [[0, 1], [1, 2], [0, 3]])


# --- memory maps ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every memory map is large, and let go of after every 64 bytes."""
    monkeypatch.setattr(inputs, "LARGE_BYTES", 1)
    monkeypatch.setattr(inputs, "RELEASE_BYTES", 64)


def mapped(folder: Path, X: np.ndarray, mode: Any = "r", order: Any = "C") -> np.memmap:
    made = np.memmap(folder / "X", X.dtype, "w+", shape=X.shape, order=order)
    made[...] = X
    made.flush()
    return np.memmap(folder / "X", X.dtype, mode, shape=X.shape, order=order)


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
@pytest.mark.parametrize("dtype", ["float32", "uint8", ">f4", "int16", "float16"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.usefixtures("small")
def test_memory_maps_give_their_numbers(mode: str, dtype: str, order: str, tmp_path: Path) -> None:
    X = np.tile(numbers(dtype), (40, 1))
    given = mapped(tmp_path, X, mode, order)
    if mode != "r":
        given[3] = X[3] = 1
    np.testing.assert_array_equal(rows(given), X)
    np.testing.assert_array_equal(rows(np.asarray(given)[5:]), X[5:])
    np.testing.assert_array_equal(given, X)
    found = inputs.read(given, (F,)).array
    readable = dtype in ("float32", "uint8") and order == "C"
    assert isinstance(found, inputs.MappedRows) == (not readable or mode != "c")


@pytest.mark.usefixtures("small")
def test_what_is_written_to_a_private_map_is_never_let_go_of(tmp_path: Path) -> None:
    given = mapped(tmp_path, numbers(), "c")
    assert inputs.mapping(given) is None
    assert inputs.mapping(np.asarray(given)[1:]) is None
    assert inputs.mapping(given.copy()) is None
    assert inputs.mapping(numbers()) is None
    shared = mapped(tmp_path, numbers())
    assert inputs.mapping(np.asarray(shared)[1:, :2]) is shared.base


@pytest.mark.usefixtures("small")
def test_systems_that_cannot_let_go_of_pages_read_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_DONTNEED", raising=False)
    np.testing.assert_array_equal(rows(mapped(tmp_path, numbers())), numbers())


def test_a_small_map_is_an_array_like_any_other(tmp_path: Path) -> None:
    given = mapped(tmp_path, numbers())
    assert isinstance(inputs.read(given, (F,)).array, np.ndarray)
    assert arrays.on_host(inputs.read(given, (F,)).array)
