"""Predictions of rows that are ready to be read, beside the same rows given in ways that are looked at and copied."""

import gc
import threading

import numpy as np
import pytest

import fastnn
from fastnn import losses, ops
from fastnn.data import inputs
from fastnn.engines.host import JOINED_BYTES, PREDICTED_ROWS, HostInstance
from fastnn.errors import FastnnError, InputError
from fastnn.network import inference

DTYPES = ("float32", "float64")
LOSSES = {  # the outputs that each takes
    "softmax_cross_entropy": 5, "sigmoid_cross_entropy": 1, "mean_squared_error": 3, "poisson": 2,
}  # fmt: skip


def a_model(
    loss: str = "softmax_cross_entropy", dtype: str = "float32", last: str = "identity", **options
) -> fastnn.Sequential:
    layers = [fastnn.Dense(9, activation="tanh"), fastnn.Dense(LOSSES[loss], activation=last)]
    return fastnn.Sequential(layers, seed=4, dtype=dtype, **options).build(13, loss=loss)


def questions(model: fastnn.Sequential) -> list:
    return [model, model.predict, *([model.predict_proba] if model.task.link in losses.PROBABILITIES else [])]


@pytest.mark.parametrize("rows", [1, 2, 31, PREDICTED_ROWS, PREDICTED_ROWS + 1, 2 * PREDICTED_ROWS + 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSSES)
def test_all_ways_of_giving_rows_have_the_same_bits(loss, dtype, rows):
    last = "sigmoid" if loss == "sigmoid_cross_entropy" else "identity"
    model, X = a_model(loss, dtype, last), np.random.default_rng(0).random((rows, 13)).astype(dtype)
    wider = np.zeros((rows, 14), dtype)
    wider[:, :13] = X
    misaligned = np.zeros(X.nbytes + 1, np.uint8)[1:].view(dtype).reshape(X.shape)
    misaligned[...] = X
    ways = {
        "column-major": np.asfortranarray(X), "part": wider[:, :13], "misaligned": misaligned, "list": X.astype("f8").tolist(),
        "swapped": X.astype(np.dtype(dtype).newbyteorder()), "read-only": np.frombuffer(X.tobytes(), dtype).reshape(X.shape),
        "subclass": X.view(np.recarray), "slice": np.concatenate([X, X])[rows:],
    }  # fmt: skip
    for ask in questions(model):
        expected = ask(X)
        for way, given in ways.items():
            answer = np.asarray(ask(given))
            assert (answer.dtype, answer.tobytes()) == (expected.dtype, expected.tobytes()), way


@pytest.mark.parametrize("threads", [1, 2])
def test_wide_rows_are_looked_at_beside_the_first_product(threads, monkeypatch):
    """Part by part: the outputs have the bits of few rows at a time, and every part is looked at."""
    monkeypatch.setattr("fastnn.engines.host.cores", lambda: 2)
    model = fastnn.Sequential([fastnn.Dense(9, activation="tanh"), fastnn.Dense(3)], seed=4).build(
        784, loss="softmax_cross_entropy"
    )
    X = np.random.default_rng(0).random((2 * PREDICTED_ROWS, 784), np.float32)
    outputs = model.predict_proba(X, threads=threads)
    few = np.concatenate([model.predict_proba(X[i : i + 64], threads=1) for i in range(0, len(X), 64)])
    assert outputs.tobytes() == few.tobytes()
    instances = [each for each in gc.get_objects() if type(each) is HostInstance and each.rows == PREDICTED_ROWS]
    joined = [parts for each in instances for _, calls, parts in each._partition.stages() if calls == 2 and parts > 1]
    assert joined
    assert min(joined) >= PREDICTED_ROWS * 784 * 4 // JOINED_BYTES
    for row in (0, PREDICTED_ROWS // 2 - 1, PREDICTED_ROWS // 2, PREDICTED_ROWS - 1, 2 * PREDICTED_ROWS - 1):
        bad = X.copy()
        bad[row, 783] = np.inf
        with pytest.raises(InputError, match=f"1 values are NaN.*row {row}, column 783"):
            model.predict_proba(bad, threads=threads)


def test_plain_rows_are_not_looked_at(monkeypatch):
    model, X = a_model(), np.ones((3, 13), np.float32)
    expected = model(X)

    def refuse(*args):
        raise AssertionError("looked at")

    monkeypatch.setattr(inputs, "read", refuse)
    for plain in (X, np.ones((3, 13)), np.ones((3, 13), np.uint8)):
        assert model(plain).tobytes() == expected.tobytes()
    with pytest.raises(AssertionError, match="looked at"):
        model(X[:, ::-1])


@pytest.mark.parametrize("rows", [1, 3, 2 * PREDICTED_ROWS + 7])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nonfinite_values_have_one_message(dtype, value, rows):
    model, X = a_model(dtype=dtype), np.ones((rows, 13), dtype)
    X[rows // 2, 5] = X[-1, 12] = value
    for ask in questions(model):
        with pytest.raises(InputError) as plain:
            ask(X)
        with pytest.raises(InputError) as looked_at:
            ask(np.asfortranarray(X))
        assert str(plain.value) == str(looked_at.value)
        assert f"row {rows // 2}, column 5" in str(plain.value)
        assert "X: 2 values" in str(plain.value)
    X[...] = 1
    assert np.isfinite(model(X)).all()


def test_numbers_too_large_for_the_model_have_one_message():
    model, X = a_model(), np.full((2, 13), 1e300)
    messages = []
    for given in (X, np.asfortranarray(X)):
        with pytest.raises(InputError, match="too large") as caught:
            model(given)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("shape", [(13,), (0, 13), (2, 12), (2, 13, 1), ()])
def test_other_shapes_are_left_to_the_look(shape):
    model, X = a_model(), np.ones(shape, np.float32)
    answers = []
    for given in (X, X[..., ::-1] if X.ndim else X.astype(">f4")):
        try:
            answers.append(model(given).shape)
        except FastnnError as error:
            answers.append(str(error))
    assert answers[0] == answers[1]


def test_uint8_rows_are_scaled():
    model = a_model(input_scale=1 / 255)
    X = np.random.default_rng(1).integers(0, 256, (40, 13)).astype(np.uint8)
    assert model(X).tobytes() == model(X.tolist()).tobytes() != model(X / np.float32(255)).tobytes()


def test_rows_that_only_change_their_shape():
    model = fastnn.Sequential([fastnn.Flatten()], seed=0).build((2, 3))
    first, second = (np.random.default_rng(seed).random((5, 2, 3)).astype(np.float32) for seed in range(2))
    for X in (first, second, first):
        assert model(X).tobytes() == X.tobytes()


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_probabilities_are_those_of_the_operation(dtype, link):
    loss = f"{link}_cross_entropy"
    model, X = a_model(loss, dtype), 30 * np.random.default_rng(2).standard_normal((300, 13)).astype(dtype)
    shares = ops.activate(model(X), link)
    if link == "sigmoid":
        shares = ops.concatenate([ops.subtract(1.0, shares), shares], 1)
    assert model.predict_proba(X).tobytes() == shares.tobytes()


def test_a_changed_model_answers_for_itself():
    model, X = a_model(), np.random.default_rng(0).random((4, 13)).astype(np.float32)
    before = model(X)
    model.set_weights({name: 2 * values for name, values in model.weights.items()})
    doubled = model(X)
    assert doubled.tobytes() != before.tobytes()
    assert model.freeze(0)(X).tobytes() == doubled.tobytes()
    model.partial_fit(X, np.zeros(4, int))
    assert model(X).tobytes() == model(np.asfortranarray(X)).tobytes() != doubled.tobytes()
    assert model.to("numpy")(X) == pytest.approx(model.to("cpu")(X), rel=1e-5)


def test_many_sizes_in_many_threads_at_once():
    model = a_model()
    X = np.random.default_rng(0).random((2 * PREDICTED_ROWS, 13)).astype(np.float32)
    expected, wrong = model(X), []

    def ask(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(150):
            start, count = random.integers(0, len(X)), random.integers(1, 40 if seed % 2 else len(X))
            if model(X[start : start + count]).tobytes() != expected[start : start + count].tobytes():
                wrong.append((start, count))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_interruption_while_rows_are_pointed_at_is_forgotten(monkeypatch):
    model = a_model()
    X, other = np.random.default_rng(0).random((2, 500, 13)).astype(np.float32)
    expected = model(X)
    point = HostInstance.point

    def interrupted(self, symbol, address):
        point(self, symbol, address)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(HostInstance, "point", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model(other)
    assert model(X).tobytes() == expected.tobytes()


def test_predictors_of_another_layout_are_not_used():
    model, X = a_model(), np.ones((1, 13), np.float32)
    model(X)
    kept = dict(model.predictors)
    model.freeze(0)
    model(X)
    assert model.predictors.keys() == kept.keys()
    assert all(isinstance(p, inference.Predictor) and p is not kept[key] for key, p in model.predictors.items())
