"""The standardizer: exact numbers from any array, the same ones for every set and in a saved model."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

import fastnn
from fastnn.errors import InputError, InputTypeError, NotReadyError
from fastnn.layers import BUILT_IN, standardizer


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int64", ">f4", ">i2"])
@pytest.mark.parametrize("shape", [(2, 1), (31, 3), (1000, 7), (33, 4, 5)])
def test_mean_and_deviation(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> None:
    X = rng.integers(0, 200, shape).astype(dtype)
    X[0] = 201  # so that none is constant
    fitted = fastnn.Standardizer().fit(X)
    flat = X.reshape(len(X), -1).astype(np.float64)
    assert fitted.mean is not None
    assert fitted.deviation is not None
    assert fitted.mean.dtype == fitted.deviation.dtype == np.float64
    np.testing.assert_allclose(fitted.mean, flat.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(fitted.deviation, flat.std(axis=0), rtol=1e-13)


def test_blocks_change_nothing_but_rounding(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    X = rng.normal(size=(101, 3))
    whole = fastnn.Standardizer().fit(X)
    monkeypatch.setattr(standardizer, "BLOCK", 8)
    parts = fastnn.Standardizer().fit(X)
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(parts.deviation, whole.deviation, rtol=1e-13)
    np.testing.assert_array_equal(whole.transform(X), fastnn.Standardizer(whole.mean, whole.deviation).transform(X))


def test_a_large_offset_costs_no_digits(rng: np.random.Generator) -> None:
    small = rng.integers(-8, 9, (5000, 3)).astype(np.float64)
    moved = fastnn.Standardizer().fit(small + 2.0**49)  # exact: the sum has 53 bits
    here = fastnn.Standardizer().fit(small)
    np.testing.assert_allclose(moved.deviation, here.deviation, rtol=1e-13)
    assert here.mean is not None
    np.testing.assert_allclose(moved.mean, here.mean + 2.0**49, rtol=1e-15)
    constant = np.full((7, 1), 0.1)
    with pytest.warns(UserWarning, match="never changes"):
        assert fastnn.Standardizer().fit(constant).transform(constant).tolist() == [[0.0]] * 7


@pytest.mark.parametrize(
    ("dtype", "result"), [("float32", "float32"), ("float64", "float64"), ("uint8", "float32"), (">f8", "float64")]
)
def test_transform_and_inverse(rng: np.random.Generator, dtype: str, result: str) -> None:
    X = rng.integers(0, 256, (50, 2, 3)).astype(dtype)
    before = X.copy()
    fitted = fastnn.Standardizer().fit(X)
    Z = fitted.transform(X)
    assert (Z.shape, Z.dtype, Z.dtype.isnative) == (X.shape, np.dtype(result), True)
    exact = (X.astype(np.float64) - X.mean(axis=0, dtype=np.float64)) / X.astype(np.float64).std(axis=0)
    np.testing.assert_allclose(Z, exact, rtol=0, atol=1e-6 if result == "float32" else 1e-13)
    np.testing.assert_allclose(fitted.inverse(Z), X, rtol=1e-5)
    np.testing.assert_array_equal(X, before)
    assert fitted.transform(X[:0]).shape == (0, 2, 3)


def test_columns_that_never_change() -> None:
    X = np.column_stack([np.arange(4.0), np.full(4, 3.0), np.zeros(4)])
    with pytest.warns(UserWarning, match=r"2 columns that never change \(1, 2\): the deviation counts as 1") as caught:
        fitted = fastnn.Standardizer().fit(X)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert fitted.deviation is not None
    assert fitted.deviation[1:].tolist() == [1.0, 1.0]
    np.testing.assert_array_equal(fitted.transform(X)[:, 1:], 0)
    with pytest.warns(UserWarning, match=r"12 columns that never change \(0, 1, 2, 3, 4, \.\.\.\)"):
        fastnn.Standardizer().fit(np.ones((1, 12)))
    pandas = pytest.importorskip("pandas")
    with pytest.warns(UserWarning, match=r"a column that never changes \('b'\)"):
        fastnn.Standardizer().fit(pandas.DataFrame({"a": [1.0, 2.0], "b": [3.0, 3.0]}))


def test_large_arrays_are_not_copied(tmp_path: Path) -> None:
    X = np.memmap(tmp_path / "x", np.uint8, "w+", shape=(400_000, 100))
    X[::3] = 7
    tracemalloc.start()
    fitted = fastnn.Standardizer().fit(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * 2**20  # of 40 MB as they are, and 320 as float64
    np.testing.assert_allclose(fitted.mean, 7 * 133_334 / 400_000)


# In a model.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_as_first_layer(rng: np.random.Generator, dtype: Any, shape: tuple[int, ...]) -> None:
    X = rng.normal(50.0, 9.0, (64, *shape))
    y = rng.integers(0, 3, 64)
    fitted = fastnn.Standardizer().fit(X)
    tail = [fastnn.Flatten()] * (len(shape) > 1) + [fastnn.Dense(4, activation="tanh"), fastnn.Dense(3)]
    inside = fastnn.Sequential([fitted, *tail], seed=1, dtype=dtype).build(shape)
    outputs = fastnn.Sequential([fitted], dtype=dtype).build(shape)(X)
    tolerance = {"rtol": 1e-5, "atol": 1e-4} if dtype == "float32" else {"rtol": 1e-11, "atol": 1e-12}
    np.testing.assert_allclose(outputs, fitted.transform(X), **tolerance)
    before = inside.weights
    inside.fit(X, y, epochs=3, batch_size=16, device="cpu", verbose=0)
    for name in ("0.offset", "0.scale"):
        np.testing.assert_array_equal(inside.weights[name], before[name])
    last = len(tail)
    assert not np.array_equal(inside.weights[f"{last}.weight"], before[f"{last}.weight"])
    assert inside.parameter_count == sum(v.size for k, v in before.items() if not k.startswith("0."))


def test_a_saved_model_carries_the_numbers(tmp_path: Path, rng: np.random.Generator) -> None:
    X = rng.normal(1e3, 3.0, (40, 3)) * [1.0, np.pi, 1e-9]
    fitted = fastnn.Standardizer().fit(X)
    model = fastnn.Sequential([fitted, fastnn.Dense(2)], seed=0)
    model.fit(X, rng.integers(0, 2, 40), epochs=1, batch_size=16, device="cpu", verbose=0)
    model.save(tmp_path / "model.safetensors")
    loaded = fastnn.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(loaded(X), model(X))
    again = loaded.layers[0]
    assert isinstance(again, fastnn.Standardizer)
    np.testing.assert_array_equal(again.mean, fitted.mean)
    np.testing.assert_array_equal(again.deviation, fitted.deviation)


def test_config_is_exact() -> None:
    assert BUILT_IN["Standardizer"] is fastnn.Standardizer
    made = fastnn.Standardizer([0.1, 1 / 3, 1e300], np.array([5e-324, 2.0, 7.0]))
    again = fastnn.Standardizer(**json.loads(json.dumps(made.config())))
    np.testing.assert_array_equal(again.mean, made.mean)
    np.testing.assert_array_equal(again.deviation, made.deviation)
    assert fastnn.Standardizer(**fastnn.Standardizer().config()).mean is None
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(made)).mean, made.mean)
    assert (repr(made), repr(fastnn.Standardizer())) == ("Standardizer(3 features)", "Standardizer()")


def test_fit_is_of_the_layer_itself() -> None:
    """As scikit-learn's: it returns the object that it was called on. Once fitted, it does not change."""
    bare = fastnn.Standardizer()
    model = fastnn.Sequential([bare, fastnn.Dense(2)], seed=0)
    assert bare.fit(np.array([[1.0], [2.0]])) is bare
    assert bare.mean is not None
    assert bare.mean.tolist() == [1.5]
    np.testing.assert_allclose(bare.transform(np.array([[1.0], [2.0]])), [[-1], [1]])
    assert model.build(1).weights["0.offset"].tolist() == [1.5]
    with pytest.raises(InputError, match="it is fitted already; make a new one"):
        bare.fit(np.array([[5.0], [2.0]]))
    assert bare.mean.tolist() == [1.5]


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame])
def test_columns_of_a_frame_are_found_by_name(make: Any) -> None:
    rng = np.random.default_rng(0)
    columns = {"age": rng.normal(40, 10, 50), "income": rng.normal(5e4, 1e4, 50), "member": rng.random(50) > 0.5}
    frame = make(columns)
    standardizer = fastnn.Standardizer().fit(frame)
    expected = np.stack([(c - c.mean()) / c.std() for c in (np.asarray(c, float) for c in columns.values())], 1)
    np.testing.assert_allclose(standardizer.transform(frame), expected, rtol=1e-9)
    other = frame[["member", "income", "age"]]
    np.testing.assert_allclose(standardizer.transform(other), expected, rtol=1e-9)
    with pytest.raises(InputError, match=r"the columns 'more' were not there.*leave them out with X\[list\(standardizer\."):
        standardizer.transform(make({"more": columns["age"], **columns}))
    np.testing.assert_allclose(
        standardizer.transform(np.asarray(other[["age", "income", "member"]], float)), expected, rtol=1e-9
    )
    with pytest.raises(InputError, match="the columns 'age' of training are missing"):
        standardizer.transform(frame[["income", "member"]])
    with pytest.raises(InputError, match="expected 3 features"):
        standardizer.transform(np.asarray(frame[["income", "age"]], float))


def test_dummies_beside_numbers() -> None:
    """Booleans, integers and numbers that pandas keeps in columns of several dtypes."""
    frame = pd.get_dummies(pd.DataFrame({"size": [1.5, 2.5, 4.0, 8.0], "rooms": [1, 2, 2, 3], "town": list("abba")}))
    frame["nullable"] = pd.array([1, 2, 3, 5], dtype="Int64")
    found = fastnn.Standardizer().fit(frame)
    wanted = frame.astype(float).to_numpy()
    np.testing.assert_allclose(found.mean, wanted.mean(0))
    np.testing.assert_allclose(found.transform(frame), (wanted - wanted.mean(0)) / wanted.std(0))


def test_what_it_is_given_stays_as_it_is() -> None:
    values = np.array([1.0, 2.0])
    made = fastnn.Standardizer(values, [1.0, 1.0])
    values[0] = 9
    assert made.mean is not None
    assert made.mean[0] == 1.0
    assert not made.mean.flags.writeable


# What can be wrong.


def test_not_fitted_and_wrong_features() -> None:
    for use in (
        lambda: fastnn.Standardizer().transform(np.ones((2, 2))),
        lambda: fastnn.Standardizer().inverse(np.ones((2, 2))),
        lambda: fastnn.Sequential([fastnn.Standardizer(), fastnn.Dense(1)]).build(3),
    ):
        with pytest.raises(NotReadyError, match=r"use Standardizer\(\)\.fit\(X_train\)"):
            use()
    fitted = fastnn.Standardizer([0.0, 1.0], [1.0, 2.0])
    for use in (
        lambda: fitted.transform(np.ones((4, 3))),
        lambda: fitted.inverse(np.ones((0, 3))),
        lambda: fastnn.Sequential([fitted, fastnn.Dense(1)]).build(3),
    ):
        with pytest.raises(InputError, match="expected 2 features, as in fit, got 3"):
            use()


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        ([1.0, 2.0], InputError, r"got \(2,\); use .reshape\(-1, 1\)"),
        (np.array([["a"]]), InputTypeError, f"expected numbers, got dtype {np.dtype('U1')}"),
        (np.array([[1j]]), InputTypeError, "expected numbers"),
        (np.ones(3), InputError, r"got \(3,\); use .reshape\(-1, 1\)"),
        (np.ones((0, 3)), InputError, "examples to learn from"),
        (np.ones((3, 0)), InputError, "examples to learn from"),
        (np.array([[1.0, 2.0], [3.0, np.nan]]), InputError, "X is nan in row 1, column 1"),
        (np.array([[np.inf]]), InputError, "X is inf in row 0, column 0"),
        (np.array([[1e200], [-1e200]]), InputError, "column 0 are too large to be squared"),
        (np.array([[1.7e308], [-1.7e308]]), InputError, "column 0 are too large"),
    ],
)
def test_what_cannot_be_learned_from(X: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        fastnn.Standardizer().fit(X)


def test_sparse_matrices_are_refused() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(InputTypeError, match=r"convert it with \.toarray\(\)"):
        fastnn.Standardizer().fit(sparse.csr_array(np.eye(3)))


@pytest.mark.parametrize(
    ("mean", "deviation", "error", "message"),
    [
        ([1.0], None, InputError, "expected mean and deviation, or neither"),
        ([1.0], [1.0, 2.0], InputError, "1 means and 2 deviations"),
        ([1.0], [0.0], InputError, "deviation: expected numbers above 0, got 0"),
        ([np.nan], [1.0], InputError, "mean: expected a finite number for each feature"),
        ([[1.0]], [[1.0]], InputError, "expected a finite number for each feature"),
        ([], [], InputError, "expected a finite number for each feature"),
        ("abc", [1.0], InputTypeError, "mean: expected numbers, got 'abc'"),
    ],
)
def test_what_cannot_be_numbers(mean: Any, deviation: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        fastnn.Standardizer(mean, deviation)


# Values that are large and close to each other: the mean is subtracted before anything is rounded.

START = 1_700_000_000
"""A time in seconds; float32 numbers are 128 apart there."""


def times(n: int = 240) -> np.ndarray:
    """Rows (n, 2): a time, one a second, and an ordinary number."""
    return np.stack([START + np.arange(n), np.arange(n) % 7], axis=1)


def as_table(kind: str, X: np.ndarray, folder: Path) -> Any:
    if kind == "memory map":
        mapped = np.memmap(folder / "x", np.int64, "w+", shape=X.shape)
        mapped[:] = X
        return mapped
    if kind == "strided":
        return np.repeat(X.astype(np.float64), 2, axis=1)[:, ::2]
    if kind == "lists":
        return X.tolist()
    if kind == "sparse":
        return pytest.importorskip("scipy.sparse").csr_array(X.astype(np.float64))
    if kind == "pandas":
        return pd.DataFrame({"time": X[:, 0], "other": X[:, 1]})
    if kind == "Int64":
        return pd.DataFrame({"time": X[:, 0], "other": X[:, 1]}).astype("Int64")
    if kind == "polars":
        return pl.DataFrame({"time": X[:, 0], "other": X[:, 1].astype(np.float32)})
    return X.astype(kind)


TABLES = (
    "int64", "int32", "uint32", "uint64", "float64", ">i8", ">f8", "strided", "memory map", "lists", "sparse", "pandas",
    "Int64", "polars",
)  # fmt: skip


@pytest.mark.parametrize("small", [pytest.param(True, marks=pytest.mark.slow), False])
@pytest.mark.parametrize("kind", TABLES)
def test_large_close_values_stay_apart(kind: str, small: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, prediction, evaluation and inspection of a float32 model agree with inputs that were standardized before."""
    if not small:
        monkeypatch.setattr("fastnn.data.inputs.COPY_BYTES", 0)
        monkeypatch.setattr("fastnn.data.inputs.LARGE_BYTES", 0)
    plain = times()
    fitted = fastnn.Standardizer().fit(plain)
    Z = fitted.transform(plain.astype(np.float64))
    assert len(np.unique(Z[:, 0])) == len(plain)
    X, y = as_table(kind, plain, tmp_path), np.sin(Z[:, 0])
    model = fastnn.Sequential([fitted, fastnn.Dense(8, activation="tanh"), fastnn.Dense(1)], seed=1)
    twin = fastnn.Sequential([fastnn.Dense(8, activation="tanh"), fastnn.Dense(1)], seed=1).build((2,))
    model.build((2,))
    twin.set_weights({f"{int(k[0]) - 1}{k[1:]}": v for k, v in model.weights.items() if k[0] != "0"})
    orders = [np.random.default_rng(epoch).permutation(len(plain)) for epoch in range(3)]
    settings = {
        "epochs": 3, "batch_size": 32, "order": orders.__getitem__, "loss": "mean_squared_error",
        "optimizer": fastnn.Adam(0.01), "device": "cpu", "verbose": 0,
    }  # fmt: skip
    losses = model.fit(X, y, **settings)["loss"]
    np.testing.assert_allclose(losses, twin.fit(Z.astype(np.float32), y, **settings)["loss"], rtol=1e-4)
    np.testing.assert_allclose(model.predict(X), twin.predict(Z), rtol=1e-3, atol=1e-4)
    assert model.evaluate(X, y)["loss"] == pytest.approx(twin.evaluate(Z, y)["loss"], rel=1e-3)
    seen, wanted = fastnn.activation_statistics(model, X), fastnn.activation_statistics(twin, Z)
    np.testing.assert_allclose(seen.mean[0], Z.mean(), atol=1e-6)
    np.testing.assert_allclose(seen.std[0], Z.std(), rtol=1e-5)
    np.testing.assert_allclose(seen.std[1:], wanted.std, rtol=1e-3)
    single = fastnn.Sequential([fitted]).build((2,))
    np.testing.assert_allclose(single(X), Z, atol=3e-7)


def test_large_close_values_stay_apart_in_mini_batches_and_partial_fit() -> None:
    X = times()
    fitted = fastnn.Standardizer().fit(X)
    Z = fitted.transform(X.astype(np.float64)).astype(np.float32)
    y = np.sin(Z[:, 0])
    weights = []
    for first, rows in ((fitted, X), (fastnn.Standardizer(np.zeros(2), np.ones(2)), Z)):
        model = fastnn.Sequential([first, fastnn.Dense(1)], seed=1)
        options = {"loss": "mean_squared_error", "optimizer": fastnn.SGD(0.1)}
        parts = [(rows[i : i + 40], y[i : i + 40]) for i in range(0, 240, 40)]
        model.fit(parts, epochs=2, verbose=0, device="cpu", **options)
        for part in parts:
            model.partial_fit(*part, **options)
        weights.append(model.weights["1.weight"])
    np.testing.assert_allclose(*weights, rtol=1e-4)
    assert np.abs(weights[0]).max() > 0.1


def test_models_with_a_standardizer_are_trained_together_as_alone() -> None:
    X = times()
    fitted = fastnn.Standardizer().fit(X)
    y = np.sin(fitted.transform(X.astype(np.float64))[:, 0])
    options = {"epochs": 2, "batch_size": 40, "loss": "mean_squared_error", "optimizer": fastnn.SGD(0.1)}
    for method in ("vectorized", "threads"):
        models = [fastnn.Sequential([fitted, fastnn.Dense(1)], seed=seed) for seed in (1, 2)]
        fastnn.tuning.train_together(models, X, y, method=method, **options)
        for model in models:
            alone = fastnn.Sequential([fitted, fastnn.Dense(1)], seed=model.seed)
            if method == "threads":
                key = fastnn.random.key(models[0].seed, fastnn.random.SHUFFLE)
                orders = [fastnn.random.permutation(key, epoch, len(X)) for epoch in range(2)]
                alone.fit(X, y, order=orders.__getitem__, device="cpu", verbose=0, **options)
                np.testing.assert_allclose(model.weights["1.weight"], alone.weights["1.weight"], rtol=1e-5)
            assert model.evaluate(X, y)["loss"] < 0.6


def test_a_gradient_check_sees_what_training_sees() -> None:
    X = times(40)
    fitted = fastnn.Standardizer().fit(X)
    model = fastnn.Sequential([fitted, fastnn.Dense(3, activation="tanh"), fastnn.Dense(1)], seed=0)
    result = fastnn.check_gradients(model, X, np.sin(np.arange(40)), loss="mean_squared_error")
    assert result.passed
    assert np.abs(result.analytic["1.weight"]).max() < 10  # of standardized inputs; of the times themselves it is about 1e9


def test_large_inputs_are_standardized_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastnn.data.feeds.BLOCK_BYTES", 2**20)
    X = np.empty((400_000, 25), np.int64)  # 80 MB
    X[:] = START + np.arange(len(X))[:, None]
    y = np.zeros(len(X), np.float32)
    model = fastnn.Sequential([fastnn.Standardizer().fit(X), fastnn.Dense(1)], seed=0)
    tracemalloc.start()
    model.fit(X, y, epochs=1, batch_size=1000, loss="mean_squared_error", device="cpu", verbose=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * 2**20


def test_the_numbers_of_a_first_standardizer_cannot_be_set() -> None:
    fitted = fastnn.Standardizer([1.0, 2.0], [3.0, 4.0])
    model = fastnn.Sequential([fitted, fastnn.Dense(1)], seed=0).build((2,))
    model.set_weights(model.weights)  # what they are is no change
    with pytest.raises(InputError, match=r"0\.offset: it follows from the options of layer 0"):
        model.set_weights({"0.offset": np.zeros(2, np.float32)})


def test_sparse_inputs_of_a_standardizer_stay_sparse_until_read() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    X = sparse.random(200, 30, density=0.1, random_state=0, dtype=np.float32, format="csr")
    fitted = fastnn.Standardizer().fit(X.toarray())
    model = fastnn.Sequential([fitted]).build((30,))
    np.testing.assert_allclose(model(X), fitted.transform(X.toarray().astype(np.float64)), atol=1e-5)


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame])
def test_a_model_finds_the_columns_of_its_standardizer_by_name(make: Any, tmp_path: Path) -> None:
    """Also in the first training, in another order, in a clone, in models trained together, and after saving and loading."""
    rng = np.random.default_rng(0)
    columns = {"age": rng.normal(40, 5, 60), "pay": rng.normal(3000, 300, 60)}
    frame, y = make(columns), rng.normal(size=60)
    turned, renamed = frame[["pay", "age"]], make({"years": columns["age"], "pay": columns["pay"]})
    fitted = fastnn.Standardizer().fit(frame)
    model, other = (fastnn.Sequential([fitted, fastnn.Dense(1)], seed=0) for _ in range(2))
    options: dict[str, Any] = {"loss": "mean_squared_error", "batch_size": 20, "epochs": 2}
    assert model.fit(frame, y, verbose=0, **options) == other.fit(turned, y, verbose=0, **options)
    assert other.feature_names == ("age", "pay")
    np.testing.assert_array_equal(model.predict(turned), other.predict(frame))
    together, _ = fastnn.tuning.train_together(
        [fastnn.Sequential([fitted, fastnn.Dense(1)], seed=seed) for seed in (0, 1)], turned, y, **options
    )
    assert together[0].feature_names == ("age", "pay")
    np.testing.assert_allclose(together[0].predict(turned), model.predict(frame), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="the columns 'age' of training are missing"):
        model.clone().fit(renamed, y, **options)
    model.save(tmp_path / "m.safetensors")
    layer = fastnn.load(tmp_path / "m.safetensors").layers[0]
    assert isinstance(layer, fastnn.Standardizer)
    np.testing.assert_array_equal(layer.transform(turned), fitted.transform(frame))


def test_names_of_features_are_those_of_the_means() -> None:
    with pytest.raises(InputError, match="feature_names: expected one for each mean"):
        fastnn.Standardizer([1.0], [1.0], ["a", "b"])
    with pytest.raises(InputError, match="feature_names: expected one for each mean"):
        fastnn.Standardizer(feature_names=["a"])


@pytest.mark.parametrize("size", [1e100, 1e-45])
def test_numbers_beyond_the_dtype_of_a_model_are_saved_and_loaded(size: float, tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(64, 3)) * size
    model = fastnn.Sequential([fastnn.Standardizer().fit(X), fastnn.Dense(1)], seed=0)
    model.fit(X, X[:, 0] / size, loss="mean_squared_error", epochs=1, batch_size=32, verbose=0)
    model.set_weights(model.weights)
    model.save(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(fastnn.load(tmp_path / "m.safetensors").predict(X), model.predict(X))
