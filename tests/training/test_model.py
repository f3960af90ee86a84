"""The public face: fit, predict, evaluate, weights, save and load, and what they say to bad input."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from trainings import INTERRUPT, blobs, classifier

import fastnn
from fastnn.callbacks import Callback
from fastnn.errors import InputError, NotReadyError


def test_the_example_of_the_readme_in_small() -> None:
    X, y = blobs()
    layers = [fastnn.Dense(32, use_bias=False), fastnn.BatchNorm(), fastnn.Activation("relu"), fastnn.Dropout(0.2)]
    model = fastnn.Sequential([*layers, fastnn.Dense(3)], seed=0, dtype="float32")
    history = model.fit(
        X[:240], y[:240], loss="softmax_cross_entropy", optimizer=fastnn.Adam(learning_rate=1e-2), batch_size=32, epochs=5,
        validation_data=(X[240:], y[240:]), sample_weight=None, class_weight=None, l2=0.0, l1=0.0, order=None, callbacks=(),
        device="auto", threads=None, verbose=0,
    )  # fmt: skip
    assert set(history) == {"loss", "val_loss", "accuracy", "val_accuracy"}
    assert all(len(values) == 5 for values in history.values())
    assert history["val_accuracy"][-1] > 0.9
    outputs = model(X)
    assert outputs.shape == (300, 3)
    assert outputs.dtype == np.float32
    probabilities = model.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(1), 1.0, atol=1e-6)
    assert np.array_equal(model.predict(X), outputs.argmax(1))
    result = model.evaluate(X[240:], y[240:])
    assert set(result) == {"loss", "accuracy"}
    assert result["accuracy"] == pytest.approx((model.predict(X[240:]) == y[240:]).mean(), abs=1e-6)
    shapes = {name: value.shape for name, value in model.weights.items()}
    assert shapes == {
        "0.weight": (5, 32), "1.gamma": (32,), "1.beta": (32,), "1.running_mean": (32,), "1.running_variance": (32,),
        "4.weight": (32, 3), "4.bias": (3,),
    }  # fmt: skip
    assert "dense" in str(model.program(batch_size=128))


def test_a_linear_layer_before_batch_norm_has_no_bias_unless_asked() -> None:
    def names(*layers: fastnn.Layer) -> set[str]:
        return set(fastnn.Sequential(layers, seed=0).build(4).weights)

    assert "0.bias" not in names(fastnn.Dense(3), fastnn.BatchNorm())
    assert "0.bias" in names(fastnn.Dense(3, use_bias=True), fastnn.BatchNorm())
    assert "0.bias" in names(fastnn.Dense(3, activation="relu"), fastnn.BatchNorm())
    assert "0.bias" in names(fastnn.Dense(3), fastnn.Activation("relu"))


def test_initial_weights_look_ahead_to_the_activation() -> None:
    he, glorot = fastnn.initializers.He("normal"), fastnn.initializers.Glorot("uniform")
    layers = [fastnn.Dense(3), fastnn.BatchNorm(), fastnn.Activation("relu"), fastnn.Dense(3, activation="tanh")]
    layers += [fastnn.Dense(3, activation="elu"), fastnn.Dense(3), fastnn.Dense(2, weight_init="zeros")]
    model = fastnn.Sequential(layers, seed=0)
    found = [layer.weight_init for layer in model.layers if isinstance(layer, fastnn.Dense)]
    assert found == [he, glorot, he, glorot, fastnn.initializers.Zeros()]
    assert layers[0].weight_init is None, "the layer that was given is not changed"


@pytest.mark.parametrize("written", ["layer", "option"])
@pytest.mark.parametrize(("activation", "loss"), [("softmax", "softmax_cross_entropy"), ("sigmoid", "sigmoid_cross_entropy")])
def test_a_final_activation_gives_probabilities_and_trains_on_logits(activation: str, loss: str, written: str) -> None:
    X, y = blobs()
    last = [fastnn.Dense(3, activation=activation)] if written == "option" else [fastnn.Dense(3), fastnn.Activation(activation)]
    model, plain = fastnn.Sequential(last, seed=0), fastnn.Sequential([fastnn.Dense(3)], seed=0)
    for m in (model, plain):
        m.fit(X, y, loss=loss, epochs=2, verbose=0)
    assert np.array_equal(model.weights["0.weight"], plain.weights["0.weight"])
    assert np.array_equal(model(X), plain.predict_proba(X))
    assert np.array_equal(model.predict_proba(X), plain.predict_proba(X))
    assert np.array_equal(model.predict(X), plain.predict(X))
    assert model.evaluate(X, y) == plain.evaluate(X, y)


def test_yes_or_no_with_one_output() -> None:
    X, y = blobs(classes=2)
    model = classifier(1)
    model.fit(X, y, loss="sigmoid_cross_entropy", optimizer=fastnn.Adam(0.01), epochs=10, batch_size=32, verbose=0)
    assert model.predict(X).shape == (300,)
    shares = model.predict_proba(X)
    assert shares.shape == (300, 2), "a column for each of the classes, in their order"
    assert (model.classes_[shares.argmax(axis=1)] == model.predict(X)).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
    accuracy = (model.predict(X) == y).mean()
    assert accuracy > 0.95
    assert model.evaluate(X, y)["accuracy"] == pytest.approx(accuracy, abs=1e-6)
    again = model.evaluate(X, y[:, None].astype("float32"))
    assert again == model.evaluate(X, y)


def test_several_yes_or_no_outputs() -> None:
    X, _ = blobs()
    t = np.stack([X[:, 0] > 0, X[:, 1] > X[:, 2]], 1)
    model = classifier(2)
    model.fit(X, t, loss="sigmoid_cross_entropy", optimizer=fastnn.Adam(0.01), epochs=20, batch_size=32, verbose=0)
    assert model.predict(X).shape == (300, 2)
    assert model.evaluate(X, t)["accuracy"] == pytest.approx((model.predict(X) == t).mean(), abs=1e-6)
    assert model.evaluate(X, t)["accuracy"] > 0.9


@pytest.mark.parametrize("loss", ["quadratic", "mean_squared_error"])
def test_regression(loss: str) -> None:
    from sklearn.metrics import r2_score

    X, _ = blobs()
    t = np.stack([X @ np.arange(5), X[:, 0] - 1], 1).astype("float32")
    model = fastnn.Sequential([fastnn.Dense(2)], seed=0)
    history = model.fit(
        X, t, loss=loss, optimizer=fastnn.Adam(0.05), epochs=40, batch_size=32, validation_data=(X, t), verbose=0
    )
    assert set(history) == {"loss", "val_loss", "val_r2", "val_mae"}
    assert model.evaluate(X, t)["r2"] == pytest.approx(r2_score(t, model.predict(X)))
    assert model.evaluate(X, t)["r2"] > 0.99
    error = ((model(X) - t) ** 2).astype(np.float64)
    expected = 0.5 * error.sum(1).mean() if loss == "quadratic" else error.mean()
    assert model.evaluate(X, t)["loss"] == pytest.approx(expected, rel=1e-5)
    one = fastnn.Sequential([fastnn.Dense(1)], seed=0)
    for given, shape in ((t[:, 1], (300,)), (t[:, 1:], (300, 1)), (list(t[:, 1]), (300,)), (pd.Series(t[:, 1]), (300,))):
        one.fit(X, given, loss=loss, epochs=1, verbose=0)
        assert one.predict(X).shape == shape, "as y was"
    one.fit(X, t[:, 1], loss=loss, optimizer=fastnn.Adam(0.05), epochs=40, batch_size=32, verbose=0)
    assert ((one.predict(X) - t[:, 1]) ** 2).mean() < 1e-2


def test_class_indices_and_one_hot_rows_train_alike() -> None:
    X, y = blobs()
    a, b = classifier(), classifier()
    a.fit(X, y, epochs=2, verbose=0)
    b.fit(X, np.eye(3)[y], epochs=2, verbose=0)
    for name, value in a.weights.items():
        np.testing.assert_allclose(value, b.weights[name], rtol=1e-5, atol=1e-7)
    assert a.evaluate(X, y)["accuracy"] == b.evaluate(X, np.eye(3)[y])["accuracy"]


@pytest.mark.parametrize(
    "change",
    [
        lambda X: X.astype("float64"),
        lambda X: X.astype(">f4"),
        lambda X: np.asfortranarray(X),
        lambda X: np.concatenate([X, X])[: len(X)],
        lambda X: np.repeat(X, 2, axis=1)[:, ::2],
        lambda X: X.astype("float16"),
    ],
    ids=["float64", "big endian", "columns first", "view", "strided", "float16"],
)
def test_any_layout_and_dtype_of_numbers_is_read(change: Any) -> None:
    X, y = blobs()
    X = X.astype("float16").astype("float32")
    given = change(X)
    before = given.copy()
    a, b = classifier(), classifier()
    a.fit(X, y, epochs=2, verbose=0)
    b.fit(given, y, epochs=2, verbose=0)
    assert np.array_equal(a.weights["0.weight"], b.weights["0.weight"])
    assert np.array_equal(a(X), b(given))
    assert np.array_equal(given, before)


def test_uint8_images_are_scaled_as_they_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, y = rng.integers(0, 256, (120, 4, 4), dtype=np.uint8), rng.integers(0, 3, 120)
    layers = [fastnn.Flatten(), fastnn.Dense(3)]
    a, b = fastnn.Sequential(layers, seed=0, input_scale=1 / 255), fastnn.Sequential(layers, seed=0)
    mapped = np.memmap(tmp_path / "images", np.uint8, "w+", shape=images.shape)
    mapped[:] = images
    a.fit(mapped, y, batch_size=50, epochs=2, verbose=0)
    b.fit(images.astype("float32") * np.float32(1 / 255), y, batch_size=50, epochs=2, verbose=0)
    assert np.array_equal(a.weights["1.weight"], b.weights["1.weight"])
    assert np.array_equal(a(images), b(images.astype("float32") * np.float32(1 / 255)))


def test_the_last_mini_batch_of_one_joins_the_one_before_with_batch_norm() -> None:
    X, y = blobs(33)
    seen = []

    class Losses(Callback):
        def chunk_end(self, run: Any, losses: np.ndarray) -> None:
            seen.append(len(losses))

    layers = [fastnn.Dense(4), fastnn.BatchNorm(), fastnn.Dense(3)]
    fastnn.Sequential(layers, seed=0).fit(X, y, batch_size=16, epochs=1, verbose=0, callbacks=[Losses()])
    assert sum(seen) == 2
    seen.clear()
    classifier().fit(X, y, batch_size=16, epochs=1, verbose=0, callbacks=[Losses()])
    assert sum(seen) == 3
    with pytest.raises(fastnn.FastnnError, match="batch_size >= 2"):
        fastnn.Sequential(layers, seed=0).fit(X, y, batch_size=1, verbose=0)


def test_set_weights_checks_everything_before_it_changes_anything() -> None:
    model = classifier().build(5)
    before = model.weights
    good = np.ones((5, 16), "float32")
    for wrong, error, says in [
        ({"0.weight": good, "0.wieght": good}, ValueError, "did you mean '0.weight'"),
        ({"0.weight": good, "0.bias": np.ones(3, "float32")}, ValueError, r"expected shape \(16,\)"),
        ({"0.weight": good, "0.bias": np.ones(16)}, TypeError, "float64"),
        ({"0.weight": np.full((5, 16), np.nan, "float32")}, ValueError, "80 values"),
    ]:
        with pytest.raises(error, match=says):
            model.set_weights(wrong)
        assert all(np.array_equal(value, before[name]) for name, value in model.weights.items())
    model.set_weights({"0.weight": good})
    assert np.array_equal(model.weights["0.weight"], good)
    model.weights["0.weight"][:] = 7
    assert np.array_equal(model.weights["0.weight"], good), "what weights returns is a copy"


def test_saved_and_loaded(tmp_path: Path) -> None:
    X, y = blobs()
    layers = [fastnn.Dense(8, weight_init=fastnn.initializers.Normal(0.3)), fastnn.BatchNorm(epsilon=1e-4)]
    layers += [fastnn.Activation("elu", alpha=0.7), fastnn.Dropout(0.25), fastnn.Dense(3, activation="softmax")]
    model = fastnn.Sequential(layers, seed=5, input_scale=0.5)
    model.fit(X, y, epochs=3, verbose=0)
    path = tmp_path / "m.safetensors"
    model.save(path)
    twin = fastnn.load(path)
    assert repr(twin) == repr(model)
    assert all(np.array_equal(value, twin.weights[name]) for name, value in model.weights.items())
    assert np.array_equal(twin.predict_proba(X), model.predict_proba(X))
    assert np.array_equal(twin.predict(X), model.predict(X))
    assert twin.evaluate(X, y) == model.evaluate(X, y)
    assert twin.counters == model.counters
    copied = pickle.loads(pickle.dumps(model))
    assert np.array_equal(copied(X), model(X))
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        assert "fastnn" in file.metadata()


def test_files_that_are_not_models_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "m.safetensors"
    with pytest.raises(OSError, match="there is no file"):
        fastnn.load(path)
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match="not a model of fastnn"):
        fastnn.load(path)
    save_file({"a": np.ones(3)}, path)
    with pytest.raises(ValueError, match="not a model of fastnn"):
        fastnn.load(path)
    save_file({"a": np.ones(3)}, path, {"fastnn": '{"format": 2}'})
    with pytest.raises(ValueError, match="checksum of its manifest"):
        fastnn.load(path)
    classifier().build(5).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged"):
        fastnn.load(path)
    with pytest.raises(fastnn.FastnnError, match="build"):
        classifier().save(path)
    with pytest.raises(OSError, match=r"m.safetensors cannot be written: there is no folder .*nowhere$"):
        classifier().build(5).save(tmp_path / "nowhere" / "m.safetensors")
    with pytest.raises(OSError, match=r"cannot be written: it is a folder$"):
        classifier().build(5).save(tmp_path)


def test_a_layer_of_ones_own_is_named_in_the_file(tmp_path: Path) -> None:
    from trainings import Residual

    model = fastnn.Sequential([Residual(), fastnn.Dense(2)], seed=0).build(4)
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match="layers="):
        fastnn.load(tmp_path / "m")
    twin = fastnn.load(tmp_path / "m", layers={"Residual": Residual})
    assert np.array_equal(twin.weights["0.weight"], model.weights["0.weight"])


def test_fit_again_goes_on_and_another_optimizer_starts_afresh() -> None:
    X, y = blobs()
    model = classifier()
    model.fit(X, y, epochs=1, optimizer=fastnn.Adam(), verbose=0)
    state = model.state.optimizer
    assert state is not None
    assert state.updates == 3
    model.fit(X, y, epochs=1, optimizer=fastnn.Adam(0.5), batch_size=50, verbose=0)
    assert model.state.optimizer is state
    assert state.updates == 9
    with pytest.warns(UserWarning, match="from a fresh state"):
        model.fit(X, y, epochs=1, optimizer=fastnn.SGD(), verbose=0)
    assert model.state.optimizer is not state


def test_the_first_result_that_is_not_finite_is_named() -> None:
    """The update of the first step; the log, in which the steps after it wrote what became of it, says nothing of it."""
    model = fastnn.Sequential([fastnn.Dense(1)], seed=0)
    X, y = np.full((8, 1), 1e18), np.ones(8)
    with pytest.raises(fastnn.DivergenceError, match="epoch 1, step 1: parameters of sgd became NaN or infinite"):
        model.fit(X, y, loss="mean_squared_error", optimizer=fastnn.SGD(1e18), batch_size=2, verbose=0)


def test_divergence_is_found_and_undone() -> None:
    X, _ = blobs()
    t = (1e3 * X[:, :2]).astype("float32")
    model = fastnn.Sequential([fastnn.Dense(16, activation="relu"), fastnn.Dense(2)], seed=0)
    counted: list[int] = []

    class Count(Callback):
        def end(self, run: Any, error: BaseException | None) -> None:
            counted.append(run.step)

    with pytest.raises(fastnn.DivergenceError, match=r"epoch \d+, step \d+: .* became NaN or infinite"):
        model.fit(
            X, t, loss="quadratic", optimizer=fastnn.SGD(10.0), epochs=50, batch_size=32, verbose=0, callbacks=[Count()]
        )  # fmt: skip
    assert counted == [model.counters.step], "callbacks see the steps that the model made"
    assert all(np.isfinite(value).all() for value in model.weights.values())
    steps = model.counters.step
    twin = fastnn.Sequential([fastnn.Dense(16, activation="relu"), fastnn.Dense(2)], seed=0)
    order = np.concatenate([fastnn.random.permutation(fastnn.random.key(0, fastnn.random.SHUFFLE), e, 300) for e in range(5)])
    whole = [order[300 * (s // 10) + 32 * (s % 10) :][: min(32, 300 - 32 * (s % 10))] for s in range(steps)]
    for batch in whole:  # the last finite step is exactly where a run that stops there is
        twin.fit(
            X, t, loss="quadratic", optimizer=fastnn.SGD(10.0), epochs=1, batch_size=len(batch),
            order=lambda _, b=batch: b, verbose=0,
        )  # fmt: skip
    assert all(np.array_equal(value, twin.weights[name]) for name, value in model.weights.items())


@pytest.mark.parametrize("metrics", [(), ("size",)])
def test_a_divergence_that_validation_shows(metrics: tuple[Any, ...]) -> None:
    """Weights and losses of training are finite, and the outputs for the validation data are not."""
    X, t = np.zeros((8, 1), np.float32), np.zeros((8, 1), np.float32)
    far = np.full((4, 1), 2e38, np.float32)
    model = fastnn.Sequential([fastnn.Dense(1)], seed=0).build(1)
    model.set_weights({"0.weight": np.full((1, 1), 2.0, np.float32)})
    own = [fastnn.metrics.Metric("size", lambda y, p: float(np.abs(p).max()))] if metrics else []
    options: dict[str, Any] = {"loss": "quadratic", "batch_size": 4, "epochs": 3, "verbose": 0, "metrics": own}
    with pytest.raises(
        fastnn.DivergenceError, match="epoch 1: after step 2 the loss of the validation data is NaN or infinite"
    ):
        model.fit(X, t, optimizer=fastnn.SGD(0.1), validation_data=(far, t[:4]), **options)
    assert model.counters.step == 2
    assert np.isfinite(model.weights["0.weight"]).all()


def test_ctrl_c_leaves_the_last_whole_chunk() -> None:
    X, y = blobs()
    model = classifier()

    class Stop(Callback):
        def epoch_end(self, run: Any, epoch: int, values: Any) -> bool | None:
            if epoch == 2:
                raise KeyboardInterrupt
            return None

    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y, epochs=10, verbose=0, callbacks=[Stop()])
    twin = classifier()
    twin.fit(X, y, epochs=3, verbose=0)
    assert all(np.array_equal(value, twin.weights[name]) for name, value in model.weights.items())
    model.fit(X, y, epochs=1, verbose=0)


def test_a_callback_ends_the_training() -> None:
    X, y = blobs()

    class Enough(Callback):
        def epoch_end(self, run: Any, epoch: int, values: Any) -> bool:
            return values["loss"] < 10 and epoch == 1

    assert len(classifier().fit(X, y, epochs=10, verbose=0, callbacks=[Enough()])["loss"]) == 2


NAN = np.array([[np.nan] * 5])


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"X": np.zeros(5, "f4")}, ValueError, "reshape"),
        ({"X": np.zeros((0, 5), "f4"), "y": np.zeros(0, int)}, ValueError, "at least one example"),
        ({"X": np.concatenate([blobs()[0], NAN]), "y": np.zeros(301, int)}, ValueError, "5 values .* row 300"),
        ({"X": blobs()[0].astype(object)}, TypeError, "object"),
        ({"X": [*blobs()[0][:-1].tolist(), [1.0]]}, ValueError, "row 299 of shape"),
        ({"y": np.zeros(299, int)}, ValueError, "300 examples"),
        ({"y": np.full(300, 3)}, ValueError, "0 to 2"),
        ({"y": np.full(300, -1)}, ValueError, "0 to 2"),
        ({"y": np.full(300, 0.5)}, ValueError, "class indices"),
        ({"y": np.ones((300, 3))}, ValueError, "add up to 1"),
        ({"y": np.ones((300, 4))}, ValueError, r"\(n, 3\)"),
        ({"loss": "softmax_crossentropy"}, ValueError, "did you mean 'softmax_cross_entropy'"),
        ({"loss": 3}, TypeError, "name of a loss"),
        ({"loss": lambda z, t: z - t}, ValueError, "one loss an example"),
        ({"optimizer": "adma"}, ValueError, "adam"),
        ({"optimizer": 3}, TypeError, "fastnn.Adam"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": 2.5}, ValueError, "batch_size"),
        ({"epochs": -1}, ValueError, "epochs"),
        ({"l2": -1.0}, ValueError, "l2"),
        ({"threads": 0}, ValueError, "threads"),
        ({"device": "cdua"}, ValueError, "did you mean 'cuda'"),
        ({"sample_weight": np.ones(3)}, ValueError, "300 numbers"),
        ({"sample_weight": np.zeros(300)}, ValueError, "add up to 0"),
        ({"sample_weight": -np.ones(300)}, ValueError, "at least 0"),
        ({"class_weight": {5: 1.0}}, ValueError, "known are 0, 1, 2"),
        ({"class_weight": "heavy"}, ValueError, "balanced"),
        ({"validation_data": (blobs()[0][:, :4], blobs()[1])}, ValueError, "validation X"),
        ({"validation_data": blobs()[0]}, ValueError, "pair"),
        ({"order": lambda epoch: np.array([300])}, ValueError, "0 to 299"),
        ({"order": lambda epoch: np.array([0.5])}, ValueError, "integers"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(options: dict[str, Any], error: type[Exception], says: str) -> None:
    X, y = blobs()
    model = classifier()
    with pytest.raises(error, match=says) as caught:
        model.fit(**{"X": X, "y": y, "verbose": 0, **options})
    assert isinstance(caught.value, fastnn.FastnnError)
    if "order" not in options and not callable(options.get("loss")) and "threads" not in options:
        assert not model.built
    model.build(5)
    before = model.weights
    with pytest.raises(error):
        model.fit(**{"X": X, "y": y, "verbose": 0, **options})
    assert all(np.array_equal(value, before[name]) for name, value in model.weights.items())
    model.fit(X, y, epochs=1, verbose=0)


def test_a_batch_larger_than_the_data_is_clipped_with_a_warning() -> None:
    X, y = blobs()
    model = classifier()
    with pytest.warns(UserWarning, match="300 is used"):
        model.fit(X, y, batch_size=1000, epochs=1, verbose=0)
    assert model.counters.step == 1


def test_questions_that_come_too_early() -> None:
    X, y = blobs()
    for ask in (
        lambda m: m(X), lambda m: m.predict(X), lambda m: m.predict_proba(X), lambda m: m.evaluate(X, y), lambda m: m.weights
    ):  # fmt: skip
        with pytest.raises(fastnn.FastnnError):
            ask(classifier())
    model = classifier().build(5)
    assert model(X).shape == (300, 3)
    assert model(X[:0]).shape == (0, 3)
    with pytest.raises(fastnn.FastnnError, match="fit first"):
        model.predict(X)
    with pytest.raises(fastnn.FastnnError, match=r"not \(4,\)"):
        model.build(4)
    with pytest.raises(fastnn.FastnnError, match="expected shape"):
        model(X[:, :4])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: fastnn.Sequential([]), "at least one layer"),
        (lambda: fastnn.Sequential([3]), "layer 0"),
        (lambda: fastnn.Sequential([fastnn.Dense(3)], dtype="float16"), "float16"),
        (lambda: fastnn.Sequential([fastnn.Dense(3)], seed=-1), "seed"),
        (lambda: fastnn.Dense(0), "units"),
        (lambda: fastnn.Dense(3, activation="rleu"), "relu"),
        (lambda: fastnn.Dropout(1.0), "rate"),
        (lambda: fastnn.BatchNorm(momentum=2), "momentum"),
        (lambda: fastnn.Sequential([fastnn.Dense(3)], seed=0).build((2, 2)), "Flatten"),
    ],
)
def test_models_that_cannot_be(make: Any, says: str) -> None:
    with pytest.raises(fastnn.FastnnError, match=says):
        make()


def test_an_order_of_any_length_is_followed_exactly() -> None:
    X, y = blobs()
    a, b = classifier(), classifier()
    visits = np.array([3, 3, 7, 299, 0])
    a.fit(X, y, batch_size=2, epochs=1, order=lambda epoch: visits, verbose=0)
    b.fit(X[visits], y[visits], batch_size=2, epochs=1, order=lambda epoch: np.arange(5), verbose=0)
    assert np.array_equal(a.weights["0.weight"], b.weights["0.weight"])
    assert a.counters.step == 3


def test_the_history_says_how_the_run_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    X, y = blobs()
    history = classifier(seed=9).fit(X, y, epochs=2)
    assert history.device == "cpu"
    assert history.reason
    assert history.seed == 9
    assert history.threads >= 1
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in printed] == [["epoch", "1/2"], ["epoch", "2/2"]]


SLOW = [
    pytest.param(*each, marks=pytest.mark.slow) for each in [("cpu", 0.113), ("cpu", 0.31), ("numpy", 0.05), ("numpy", 0.31)]
]


@pytest.mark.parametrize(("device", "delay"), [("cpu", 0.05), ("numpy", 0.113), *SLOW])
def test_an_interrupt_inside_a_chunk_leaves_whole_steps(device: str, delay: float) -> None:
    import subprocess
    import sys

    code = INTERRUPT.format(path=[p for p in sys.path if p])
    run = subprocess.run(
        [sys.executable, "-c", code, device, str(delay)], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr


def test_a_failed_fit_leaves_task_and_optimizer_alone() -> None:
    X, y = blobs()
    model = classifier()
    model.fit(X, y, epochs=1, optimizer=fastnn.SGD(0.1, momentum=0.9), verbose=0)
    before = model.snapshot()

    for wrong in ({"loss": lambda z, t: z, "optimizer": fastnn.Adam()}, {"order": lambda epoch: np.array([300])}):
        with pytest.raises(fastnn.FastnnError), pytest.warns(UserWarning, match="cannot be used by"):
            model.fit(X, y, verbose=0, **wrong)
        after = model.snapshot()
        assert model.task is not None
        assert model.task.loss == "softmax_cross_entropy"
        assert (after.optimizer, after.updates, after.step, after.epoch) == ("SGD", 3, 3, 1)
        assert np.array_equal(after.arrays["parameters"], before.arrays["parameters"])
        assert np.array_equal(after.arrays["velocity"], before.arrays["velocity"])


def test_what_fails_later_leaves_the_whole_steps_before_it() -> None:
    X, y = blobs()
    model, twin = classifier(), classifier()

    def order(epoch: int) -> np.ndarray:
        return np.arange(300) if epoch == 0 else np.array([300])

    with pytest.raises(fastnn.FastnnError, match="0 to 299"):
        model.fit(X, y, epochs=2, order=order, verbose=0)
    twin.fit(X, y, epochs=1, order=order, verbose=0)
    assert (model.counters.step, model.counters.epoch) == (twin.counters.step, twin.counters.epoch) == (3, 1)
    assert all(np.array_equal(model.weights[name], value) for name, value in twin.weights.items())


def test_the_same_class_of_optimizer_goes_on_with_what_it_has() -> None:
    X, y = blobs()
    model = classifier()
    model.fit(X, y, epochs=1, optimizer=fastnn.SGD(0.1, momentum=0.9), verbose=0)
    assert model.state.optimizer is not None
    velocity = model.state.optimizer.slots["velocity"]
    model.fit(X, y, epochs=1, optimizer=fastnn.SGD(0.1, momentum=0.8, nesterov=True), verbose=0)
    assert model.state.optimizer.slots["velocity"] is velocity
    with pytest.warns(UserWarning, match="of SGD cannot be used by Adam"):
        model.fit(X, y, epochs=1, optimizer=fastnn.Adam(), verbose=0)
    with pytest.warns(UserWarning, match="of Adam cannot be used by AdamW"):
        model.fit(X, y, epochs=1, optimizer=fastnn.AdamW(), verbose=0)


def test_rates_per_epoch_follow_the_epochs_of_any_order() -> None:
    """Steps of plain gradient descent have the length of the rate."""
    X, t = np.ones((6, 1)), np.zeros((6, 1))
    for length in (3, 6, 12):
        model = fastnn.Sequential([fastnn.Dense(1, use_bias=False, weight_init="zeros")], seed=0, dtype="float64").build(1)
        rates = []

        class Rate(Callback):
            def epoch_end(self, run: Any, epoch: int, values: Any, rates: list[float] = rates) -> None:
                rates.append(run.model.weights["0.weight"].item())

        model.fit(
            X, t + 1e9, loss="quadratic", optimizer=fastnn.SGD(fastnn.schedules.Table({0: 1e-9, 1: 1e-10, 2: 1e-11})),
            batch_size=3, epochs=3, order=lambda epoch, n=length: np.arange(n) % 6, callbacks=[Rate()], verbose=0,
        )  # fmt: skip
        np.testing.assert_allclose(np.diff([0.0, *rates]) / (length // 3), [1.0, 0.1, 0.01], rtol=1e-6)


def test_the_library_s_loss_functions_are_its_losses() -> None:
    X, y = blobs()
    model = fastnn.Sequential([fastnn.Dense(3, activation="softmax")], seed=0)
    model.fit(X, y, epochs=1, verbose=0)
    known = model.evaluate(X, y)
    assert model.evaluate(X, y, loss=fastnn.losses.softmax_cross_entropy) == known
    assert model.evaluate(X, y, loss=fastnn.ops.softmax_cross_entropy) == known

    def quadratic(outputs: Any, targets: Any) -> Any:
        return fastnn.ops.sum(outputs, 1)

    for wrong, says in ((quadratic, "a name of its own"), ("sigmoid_cross_entropy", "last layer applies softmax")):
        with pytest.raises(fastnn.FastnnError, match=says):
            model.fit(X, y, loss=wrong, verbose=0)


def test_shares_as_targets_of_a_sigmoid() -> None:
    X, _ = blobs()
    t = 1 / (1 + np.exp(-X[:, :1].astype(np.float64)))
    model = fastnn.Sequential([fastnn.Dense(1)], seed=0)
    model.fit(X, t, loss="sigmoid_cross_entropy", optimizer=fastnn.Adam(0.05), epochs=60, batch_size=32, verbose=0)
    assert model.evaluate(X, t)["r2"] > 0.99
    np.testing.assert_allclose(model.predict(X), t, atol=0.05)
    assert np.array_equal(model.predict(X), model.predict_proba(X))


def test_evaluation_keeps_to_the_task_of_the_training() -> None:
    rng = np.random.default_rng(0)
    X, t = rng.standard_normal((50, 4)), rng.integers(0, 5, (50, 2))
    t[:5] = [[1, 0], [0, 1], [1, 0], [0, 1], [1, 0]]
    model = fastnn.Sequential([fastnn.Dense(2)], seed=0)
    model.fit(X, t, loss="mean_squared_error", batch_size=25, epochs=1, verbose=0)
    assert set(model.evaluate(X[:5], t[:5])) == {"loss", "r2", "mae"}


def test_what_cannot_be_predicted_is_refused() -> None:
    X, y = blobs()
    model = classifier()
    model.fit(X, y, epochs=1, verbose=0)
    X = X.astype(np.float64)
    X[3, 1] = np.nan
    with pytest.raises(fastnn.FastnnError, match="1 values are NaN"):
        model.predict(X)
    X[3, 1] = 1e300
    for use in (model.predict, lambda X: model.fit(X, y, verbose=0), lambda X: model.evaluate(X, y)):
        with pytest.raises(fastnn.FastnnError, match="1 values"):
            use(X)


def test_small_things_that_went_wrong_once(tmp_path: Path) -> None:
    model = fastnn.Sequential([fastnn.Dense(np.int64(3))], seed=np.int64(3)).build(np.int64(2))
    model.save(tmp_path / "m")
    assert not hasattr(fastnn.Dense(3), "weight")
    with pytest.raises(fastnn.FastnnError, match="brackets"):
        fastnn.Sequential(fastnn.Dense(3))
    with pytest.raises(fastnn.FastnnError, match="dtype"):
        fastnn.Sequential([fastnn.Dense(3)], dtype=None)
    with pytest.raises(fastnn.FastnnError, match="build"):
        fastnn.Sequential([fastnn.Dense(3)]).build(2.5)
    for options in ({"threads": 1.5}, {"threads": 3000}, {"l2": "a"}, {"callbacks": [object()]}):
        with pytest.raises(fastnn.FastnnError, match=next(iter(options))):
            classifier().fit(*blobs(), verbose=0, **options)


def test_a_copy_shares_nothing_with_the_model() -> None:
    X, y = blobs()
    model = classifier()
    model.fit(X, y, epochs=1, verbose=0)
    before = {name: value.copy() for name, value in model.weights.items()}
    other = copy.copy(model)
    with pytest.warns(UserWarning, match="fresh state"):
        other.fit(X, y, epochs=1, optimizer="sgd", verbose=0)
    assert all(np.array_equal(value, before[name]) for name, value in model.weights.items())
    again = pickle.loads(pickle.dumps(model))
    assert again.optimizer_state.optimizer == "Adam"
    model.fit(X, y, epochs=1, verbose=0)


def test_a_snapshot_that_does_not_fit_changes_nothing() -> None:
    X, y = blobs()
    model, wider = classifier(), fastnn.Sequential([fastnn.Dense(17), fastnn.Dense(3)], seed=0)
    unbuilt = model.snapshot()
    model.fit(X, y, epochs=1, verbose=0)
    wider.fit(X, y, epochs=1, optimizer="lion", verbose=0)
    state = model.optimizer_state
    assert state is not None
    before = pickle.dumps((model.weights, state.slots))
    for snapshot in (wider.snapshot(), unbuilt):
        with pytest.raises(InputError, match="expected a snapshot of this network"):
            model.restore(snapshot)
    assert pickle.dumps((model.weights, model.optimizer_state.slots)) == before  # type: ignore[union-attr]


def test_another_optimizers_state_is_not_restored_while_the_model_is_trained() -> None:
    X, y = blobs()
    model = classifier()
    model.fit(X, y, epochs=1, optimizer="lion", verbose=0)
    lion = model.snapshot()

    class Restores(Callback):
        def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
            run.model.restore(run.model.snapshot())
            with pytest.raises(NotReadyError, match="another optimizer"):
                run.model.restore(lion)

    with pytest.warns(UserWarning, match="fresh state"):
        model.fit(X, y, epochs=2, callbacks=[Restores()], verbose=0)
    assert model.optimizer_state is not None
    assert model.optimizer_state.optimizer == "Adam"
    model.restore(lion)
    assert model.optimizer_state.optimizer == "Lion"


def test_a_clone_is_untrained() -> None:
    """It has the layers, the seed and the dtype, and none of what was learned, also where layers hold arrays or are frozen."""
    X, y = blobs()
    layers = [fastnn.Standardizer().fit(X), fastnn.Dense(8, trainable=False), fastnn.BatchNorm(), fastnn.Activation("relu")]
    model = fastnn.Sequential([*layers, fastnn.Dropout(0.2), fastnn.Dense(3)], seed=4, dtype="float64", input_scale=0.5)
    before = model.clone()
    model.fit(X, y, epochs=2, batch_size=32, verbose=0)
    clone = model.clone()
    assert (clone.built, clone.task, clone.trained, clone.loss, clone.optimizer) == (False, None, None, None, None)
    assert (clone.counters.step, clone.optimizer_state, clone.feature_names) == (0, None, None)
    assert repr(clone) == repr(model) == repr(before)
    for each in (before, clone):
        each.fit(X, y, epochs=2, batch_size=32, verbose=0)
        assert all(array.tobytes() == model.weights[name].tobytes() for name, array in each.weights.items())
    other = model.clone(seed=5)
    assert other.seed == 5
    assert not np.array_equal(other.build(5).weights["5.weight"], clone.clone().build(5).weights["5.weight"])


def test_clones_score_noise_as_noise() -> None:
    """Folds of a cross-validation know nothing of each other."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(120, 20)).astype("float32"), rng.integers(0, 2, 120)
    model = fastnn.Sequential([fastnn.Dense(32, activation="tanh"), fastnn.Dense(2)], seed=0)
    scores = []
    for fold in range(4):
        dev = np.arange(120) % 4 == fold
        twin = model.clone()
        twin.fit(X[~dev], y[~dev], optimizer=fastnn.Adam(0.01), batch_size=30, epochs=40, verbose=0)
        scores.append(twin.evaluate(X[dev], y[dev])["accuracy"])
    assert 0.3 < np.mean(scores) < 0.7


def test_going_on_with_other_data_is_said_once_for_each_change(tmp_path: Path) -> None:
    """Nothing is said of the same data with other weights, of parts, of a model with frozen layers, or of one from a file."""
    X, y = blobs()
    options: dict[str, Any] = {"epochs": 1, "batch_size": 32, "verbose": 0}
    model = fastnn.Sequential([fastnn.Dense(8, activation="relu"), fastnn.Dense(3)], seed=0)
    model.fit(X, y, **options)
    model.fit(X.copy(), y.tolist(), sample_weight=np.linspace(0.5, 1, len(X)), **options)
    model.partial_fit(X[:32], y[:32])
    model.fit([(X[:32], y[:32])], **options)
    model.fit(X, y, **options)  # nothing is known of mini-batches
    with pytest.warns(UserWarning, match=r"trained on other data before.*model\.clone\(\)"):
        model.fit(X[::2], y[::2], **options)
    model.fit(X[::2], y[::2], **options)
    model.freeze(0).fit(X, y, **options)
    model.unfreeze().save(tmp_path / "model.safetensors")
    fastnn.load(tmp_path / "model.safetensors").fit(X[::2], y[::2], **options)
    model.clone().fit(X[::2], y[::2], **options)
