"""What the estimators have that scikit-learn's have not, and what they refuse."""

from __future__ import annotations

import gc
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import fastnn
from fastnn.callbacks import Callback, Checkpoint, EarlyStopping
from fastnn.checkpoints import Folder
from fastnn.engines import cache
from fastnn.errors import InputError, NotReadyError
from fastnn.estimators import Classifier, MLPClassifier, MLPRegressor, Regressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

rng = np.random.default_rng(7)
X = rng.standard_normal((200, 6))
SCORES = X @ rng.standard_normal((6, 3))
LABELS = np.array(["low", "middle", "high"])[SCORES.argmax(axis=1)]
NUMBERS = np.abs(X[:, 0]) + X[:, 1]


def classify(**parameters: Any) -> MLPClassifier:
    given = {"hidden_layer_sizes": (24,), "max_iter": 40, "learning_rate_init": 0.02, "random_state": 0, "tol": 0}
    return MLPClassifier(**{**given, **parameters})


# The model behind.


def test_the_model_knows_labels_and_names(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcdef"))
    fitted = classify().fit(frame, LABELS)
    fitted.model_.save(tmp_path / "model.safetensors")
    model = fastnn.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(model.predict(frame), fitted.predict(frame))
    assert model.classes_.tolist() == fitted.classes_.tolist() == ["high", "low", "middle"]
    assert model.feature_names == tuple("abcdef")


def test_a_regressor_behind_a_model() -> None:
    fitted = MLPRegressor(max_iter=5).fit(X, NUMBERS)
    np.testing.assert_array_equal(fitted.model_.predict(X), fitted.predict(X))


def test_weights_are_read_and_set() -> None:
    fitted = classify().fit(X, LABELS)
    with pytest.raises(ValueError, match="read-only"):
        fitted.coefs_[0][:] = 0.0
    before = fitted.predict_proba(X)
    fitted.coefs_ = [2 * array for array in fitted.coefs_]
    assert np.abs(fitted.predict_proba(X) - before).max() > 0.01
    with pytest.raises(InputError, match="expected 2 arrays"):
        fitted.intercepts_ = fitted.intercepts_[:1]
    with pytest.raises(AttributeError):
        _ = classify().coefs_


# More than scikit-learn's.


@pytest.mark.parametrize(
    "more",
    [
        {"dropout": 0.2},
        {"hidden_layer_sizes": (24, 12), "dropout": [0.2, 0.0], "activation": ["gelu", "tanh"]},
        {"batch_norm": True},
        {"batch_norm": True, "activation": "identity"},
        {"solver": "adamw"},
        {"solver": fastnn.Lion(2e-2)},
        {"solver": fastnn.SGD(0.1, momentum=0.9, clip_norm=1.0)},
        {"learning_rate": fastnn.schedules.Cosine(0.03)},
        {"loss": "focal"},
        {"loss": "softmax_focal:gamma=1.0"},
        {"loss": "softmax_cross_entropy:label_smoothing=0.1"},
        {"class_weight": "balanced"},
        {"threads": 1, "device": "cpu"},
    ],
    ids=str,
)
def test_options(more: dict[str, Any]) -> None:
    fitted = classify(**more).fit(X, LABELS)
    assert fitted.score(X, LABELS) > 0.9
    assert np.array_equal(classify(**more).fit(X, LABELS).predict_proba(X), fitted.predict_proba(X)), "the same seed"
    if "solver" not in more:
        assert fitted.n_iter_ == 40


@pytest.mark.parametrize(
    "loss", ["absolute_error", "huber", "huber:delta=0.5", "quantile:level=0.5", fastnn.losses.LOSSES["mean_squared_error"]]
)
def test_losses_of_numbers(loss: Any) -> None:
    fitted = MLPRegressor(loss, (32,), max_iter=150, learning_rate_init=0.02, random_state=0).fit(X, NUMBERS)
    assert fitted.score(X, NUMBERS) > 0.9


def test_a_quantile_lies_above_its_share() -> None:
    noisy = NUMBERS + rng.exponential(1.0, 200)
    fitted = MLPRegressor("quantile:level=0.9", (8,), max_iter=300, learning_rate_init=0.02, random_state=0).fit(X, noisy)
    assert 0.84 < np.mean(noisy <= fitted.predict(X)) < 0.96


def test_shares_of_classes() -> None:
    shares = np.exp(SCORES) / np.exp(SCORES).sum(axis=1, keepdims=True)
    fitted = classify(max_iter=200).fit(X, shares)
    assert fitted.classes_.tolist() == [0, 1, 2]
    assert np.abs(fitted.predict_proba(X) - shares).mean() < 0.03
    np.testing.assert_array_equal(fitted.predict(X), fitted.predict_proba(X).argmax(axis=1))


def test_weights_of_classes_are_weights_of_examples() -> None:
    weights = {"low": 1.0, "middle": 3.0, "high": 0.5}
    each = np.array([weights[label] for label in LABELS])
    by_class, by_example = classify(class_weight=weights).fit(X, LABELS), classify().fit(X, LABELS, each)
    np.testing.assert_array_equal(by_class.predict_proba(X), by_example.predict_proba(X))
    both = classify(class_weight=weights).fit(X, LABELS, each)
    np.testing.assert_allclose(both.coefs_[0], classify().fit(X, LABELS, each**2).coefs_[0])


def test_validation_data_take_the_place_of_what_is_held_out() -> None:
    held_out = X[150:], LABELS[150:]
    watched = classify(max_iter=7).fit(X[:150], LABELS[:150], validation_data=held_out)
    assert len(watched.validation_scores_) == 7
    assert watched.validation_scores_[-1] == watched.score(*held_out)
    np.testing.assert_array_equal(watched.coefs_[0], classify(max_iter=7).fit(X[:150], LABELS[:150]).coefs_[0])
    stopped = classify(early_stopping=True, n_iter_no_change=1, max_iter=300).fit(X[:150], LABELS[:150], None, held_out)
    assert stopped.n_iter_ < 300
    assert stopped.score(*held_out) == stopped.best_validation_score_ == max(stopped.validation_scores_)
    weighted = classify(max_iter=2).fit(X[:150], LABELS[:150], validation_data=(*held_out, np.arange(50.0)))
    assert weighted.validation_scores_[-1] == pytest.approx(weighted.score(*held_out, sample_weight=np.arange(50.0)))


def test_callbacks_are_told() -> None:
    class Telling(Callback):
        epochs = 0

        def epoch_end(self, run: Any, epoch: int, values: Any) -> bool:
            Telling.epochs += 1
            return epoch == 2

    assert classify(callbacks=[Telling()]).fit(X, LABELS).n_iter_ == 3
    assert Telling.epochs == 3


def test_several_threads_train_networks_of_one_shape() -> None:
    """Programs of one architecture are shared, and used by one training at a time."""
    seeds = range(8)
    alone = [classify(random_state=seed).fit(X, LABELS).predict_proba(X) for seed in seeds]
    found: dict[int, np.ndarray] = {}

    def train(seed: int) -> None:
        for _ in range(3):
            found[seed] = classify(random_state=seed).fit(X, LABELS).predict_proba(X)

    threads = [threading.Thread(target=train, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in seeds:
        np.testing.assert_array_equal(found[seed], alone[seed])


def test_dropout_of_other_seeds_is_another() -> None:
    one, two = (classify(dropout=0.5, max_iter=3, random_state=seed).fit(X, LABELS) for seed in (1, 2))
    assert one.model_.seed != two.model_.seed
    first, again = (classify(dropout=0.5, max_iter=3, random_state=1).fit(X, LABELS).coefs_[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, one.coefs_[0])


def test_buffers_of_large_networks_go_with_them() -> None:
    def train(rows: int) -> None:
        MLPClassifier((64,), batch_size=rows, max_iter=1).fit(np.ones((rows, 20)), np.arange(rows) % 2)

    kept = []
    for rows in range(10_000, 10_006):
        train(rows)
        gc.collect()
        kept.append(sum(each.plan.size for items in cache._shared._free.values() for each in items if hasattr(each, "plan")))
    assert max(kept) - min(kept) < cache.SHARED_BYTES, "10,000 rows have buffers of megabytes"


def test_one_class() -> None:
    for net in (classify(), classify(loss="softmax_cross_entropy"), Classifier(options={"epochs": 1})):
        fitted = net.fit(X, np.full(200, 7))
        assert (fitted.predict(X) == 7).all()
        np.testing.assert_array_equal(fitted.predict_proba(X), np.ones((200, 1)))
        assert fitted.score(X, np.full(200, 7)) == 1.0


def test_checkpoints_of_the_default_solver(tmp_path: Path) -> None:
    classify(callbacks=[Checkpoint(tmp_path, epochs=5)], max_iter=10).fit(X, LABELS)
    latest = Folder(tmp_path).latest()
    assert latest is not None
    assert fastnn.load(latest).counters.step == 10


def test_callbacks_see_validation_data() -> None:
    stopping = EarlyStopping("val_loss", patience=1)
    fitted = classify(callbacks=[stopping], max_iter=500).fit(X[:150], LABELS[:150], validation_data=(X[150:], LABELS[150:]))
    assert fitted.n_iter_ < 500
    assert len(fitted.history_["val_accuracy"]) == fitted.n_iter_
    assert fitted.history_["val_accuracy"][0] == pytest.approx(fitted.validation_scores_[0])


def test_frozen_layers_stay_in_a_warm_start() -> None:
    for solver in ("adam", "lbfgs"):
        net = classify(warm_start=True, max_iter=3).fit(X, LABELS)
        net.model_.freeze(0)
        before = net.coefs_
        net.set_params(solver=solver).fit(X, LABELS)
        np.testing.assert_array_equal(net.coefs_[0], before[0])
        assert np.abs(net.coefs_[1] - before[1]).max() > 0


def test_shares_are_scored() -> None:
    shares = np.exp(SCORES) / np.exp(SCORES).sum(axis=1, keepdims=True)
    fitted = classify(max_iter=100).fit(X, shares)
    assert fitted.score(X, shares) == np.mean(fitted.predict(X) == shares.argmax(axis=1))


# Any model.


def build(features: int, outputs: int) -> list[fastnn.Layer]:
    return [fastnn.Dense(32), fastnn.BatchNorm(), fastnn.Activation("relu"), fastnn.Dense(outputs)]


@pytest.mark.parametrize("given", [build, fastnn.Sequential([fastnn.Dense(16, activation="relu"), fastnn.Dense(3)])])
def test_a_classifier_of_ones_own(given: Any) -> None:
    options = {"epochs": 60, "batch_size": 32, "optimizer": fastnn.Adam(0.01)}
    fitted = Classifier(given, options=options, random_state=0).fit(X, LABELS, validation_data=(X[:50], LABELS[:50]))
    assert fitted.score(X, LABELS) > 0.9
    assert len(fitted.history_["val_loss"]) == fitted.n_iter_ == 60
    assert not isinstance(given, fastnn.Sequential) or not given.built
    assert set(fitted.model_.predict(X)) <= set(LABELS)


def test_a_regressor_of_ones_own() -> None:
    fitted = Regressor(build, loss="huber", options={"epochs": 100, "batch_size": 32}, random_state=0).fit(X, NUMBERS)
    assert fitted.score(X, NUMBERS) > 0.8


def test_a_sigmoid_has_one_output_for_two_classes() -> None:
    fitted = Classifier(loss="sigmoid_cross_entropy", options={"epochs": 50}, random_state=0).fit(X, LABELS == "low")
    assert fitted.model_.network.size == 6 * 100 + 100 + 100 + 1
    assert fitted.predict_proba(X).shape == (200, 2)
    assert fitted.predict(X).dtype == bool


# What is refused.


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"alpha": -1}, "alpha: expected a number >= 0, got -1"),
        ({"batch_size": 0}, 'batch_size: expected "auto" or an integer >= 1, got 0'),
        ({"batch_size": "all"}, "batch_size"),
        ({"hidden_layer_sizes": (10, 0)}, "hidden_layer_sizes must be > 0"),
        ({"hidden_layer_sizes": "10"}, "hidden_layer_sizes"),
        ({"hidden_layer_sizes": 2.5}, "hidden_layer_sizes"),
        ({"activation": "rely"}, "unknown activation 'rely'; did you mean 'relu'"),
        ({"activation": ["relu", "tanh"]}, "expected one for each of the 1 hidden layers, got 2"),
        ({"solver": "adan"}, "solver: expected an optimizer"),
        ({"learning_rate": "fast"}, "learning_rate: expected"),
        ({"learning_rate": np.array([1.0, 2.0])}, "learning_rate: expected"),
        ({"learning_rate_init": 0}, "learning_rate_init: expected a number > 0"),
        ({"momentum": 1.0}, "momentum: expected"),
        ({"max_iter": 0}, "max_iter: expected an integer >= 1"),
        ({"max_iter": True}, "max_iter: expected an integer >= 1"),
        ({"tol": np.nan}, "tol: expected"),
        ({"n_iter_no_change": 0}, "n_iter_no_change: expected"),
        ({"validation_fraction": 1.0}, "validation_fraction: expected"),
        ({"verbose": -1}, "verbose: expected"),
        ({"dropout": 1.0}, "dropout: expected"),
        ({"dropout": [0.1, 0.2]}, "dropout: expected one for each"),
        ({"precision": "float16"}, "precision: expected one of"),
        ({"device": "tpu"}, "tpu"),
        ({"threads": 0}, "threads"),
        ({"solver": "lbfgs", "dropout": 0.5}, "lbfgs minimizes one function"),
        ({"solver": "lbfgs", "batch_norm": True}, "lbfgs minimizes one function"),
        ({"loss": "poisson"}, "poisson does not go with multiclass targets"),
        ({"loss": "sigmoid_cross_entropy"}, "expected one that ends in softmax"),
        ({"loss": "hinge"}, "hinge"),
    ],
    ids=str,
)
def test_parameters_that_are_refused(parameters: dict[str, Any], message: str) -> None:
    net = classify(**parameters)
    with pytest.raises((ValueError, fastnn.FastnnError), match=message):
        net.fit(X, LABELS)
    assert not hasattr(net, "model_")


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (NUMBERS, "Unknown label type: continuous"),
        (np.stack([SCORES.argmax(axis=1)] * 2, 1), "Unknown label type: multiclass-multioutput"),
        (LABELS[:-1], "inconsistent numbers of samples"),
    ],
)
def test_targets_that_are_refused(y: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classify().fit(X, y)


def test_calls_that_are_refused() -> None:
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        classify().partial_fit(X, LABELS)
    with pytest.raises(AttributeError, match="partial_fit"):
        _ = classify(solver="lbfgs").partial_fit
    with pytest.raises(ValueError, match="early_stopping"):
        classify(early_stopping=True).partial_fit(X, LABELS, classes=np.unique(LABELS))
    with pytest.raises(ValueError, match="class_weight='balanced'"):
        classify(class_weight="balanced").partial_fit(X, LABELS, classes=np.unique(LABELS))
    with pytest.raises(ValueError, match="all zero"):
        classify().fit(X, LABELS, np.zeros(200))
    with pytest.raises(ValueError, match="all zero"):
        classify(solver="lbfgs", class_weight=dict.fromkeys(np.unique(LABELS), 0)).fit(X, LABELS)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        classify(solver="lbfgs").fit(X, LABELS, np.r_[-1.0, np.ones(199)])
    np.testing.assert_allclose(classify(alpha=0).fit(X, LABELS, 2.0).coefs_[0], classify(alpha=0).fit(X, LABELS).coefs_[0])
    with pytest.raises(ValueError, match="lbfgs makes no steps"):
        classify(solver="lbfgs", callbacks=[Callback()]).fit(X, LABELS)
    for callbacks in (None, Callback(), [1]):
        with pytest.raises(TypeError, match="callbacks: expected"):
            classify(callbacks=callbacks).fit(X, LABELS)
    for options in (3, "epochs"):
        with pytest.raises(TypeError, match="options: expected a dict"):
            Classifier(options=options).fit(X, LABELS)
    with pytest.raises(TypeError, match="build: expected a Sequential or a function"):
        Classifier([fastnn.Dense(3)]).fit(X, LABELS)
    with pytest.raises(ValueError, match="diverged"):
        Regressor(options={"optimizer": fastnn.SGD(1e9), "epochs": 9}).fit(X, NUMBERS)
    with pytest.raises(ValueError, match="validation_data: expected a pair"):
        classify().fit(X, LABELS, validation_data=X)
    with pytest.raises(ValueError, match="has classes not in"):
        classify().fit(X, LABELS, validation_data=(X[:2], ["low", "none"]))
    with pytest.raises(ValueError, match="validation set is too small"):
        classify(early_stopping=True, validation_fraction=0.001).fit(X, LABELS)
    with pytest.raises(ValueError, match="lbfgs makes no epochs"):
        classify(solver="lbfgs").fit(X, LABELS, validation_data=(X, LABELS))
    with pytest.raises(ValueError, match="options: loss is a parameter"):
        Classifier(options={"loss": "focal"}).fit(X, LABELS)
    with pytest.raises(ValueError, match="expected a model with 3 outputs"):
        Classifier(lambda features, outputs: [fastnn.Dense(outputs + 1)]).fit(X, LABELS)
    with pytest.raises(ValueError, match="compares classes"):
        MLPRegressor("softmax_cross_entropy").fit(X, NUMBERS)


def test_partial_fit_begins_again_after_a_first_call_that_failed() -> None:
    net = classify()
    with pytest.raises(ValueError, match="has classes not in"):
        net.partial_fit(X, LABELS, classes=["low", "high"])
    net.partial_fit(X, LABELS, classes=["low", "middle", "high"])
    with pytest.raises(ValueError, match="is not the same as on last call"):
        net.partial_fit(X, LABELS, classes=["low", "middle"])
    with pytest.raises(ValueError, match="has classes not in"):
        net.partial_fit(X[:2], ["low", "none"])


def test_a_warm_start_needs_the_same_classes_and_outputs() -> None:
    net = classify(warm_start=True, max_iter=2).fit(X, LABELS)
    before = net.coefs_
    with pytest.raises(ValueError, match="same classes"):
        net.fit(X, LABELS == "low")
    regressor = MLPRegressor(warm_start=True, max_iter=2).fit(X, NUMBERS)
    with pytest.raises(ValueError, match="expected 1 outputs, got 2"):
        regressor.fit(X, SCORES[:, :2])
    np.testing.assert_array_equal(before[0], net.coefs_[0])


def test_a_warm_start_with_another_solver() -> None:
    net = classify(solver="lbfgs", warm_start=True).fit(X, LABELS)
    assert not hasattr(net, "loss_curve_")
    net.set_params(solver="adam", max_iter=2).fit(X, LABELS)
    assert len(net.loss_curve_) == 2
    net.set_params(early_stopping=True).fit(X, LABELS)
    assert net.best_validation_score_ == max(net.validation_scores_)
    net.set_params(early_stopping=False).fit(X, LABELS)
    assert len(net.loss_curve_) == 6
    with pytest.raises(ValueError, match=r"hidden_layer_sizes are \[3\] now, and were \[24\]"):
        net.set_params(hidden_layer_sizes=(3,)).fit(X, LABELS)


def test_training_that_diverges() -> None:
    huge = MLPRegressor(solver="sgd", learning_rate_init=1e6, max_iter=50, random_state=0)
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        huge.fit(X, 1e6 * NUMBERS)
    kept = MLPRegressor(solver="sgd", learning_rate_init=1e6, max_iter=50, random_state=0, early_stopping=True)
    with pytest.warns(ConvergenceWarning, match="training diverged"):
        kept.fit(X, 1e6 * NUMBERS)
    assert np.isnan(kept.loss_)
    assert np.isnan(kept.validation_scores_[-1])
    assert np.isfinite(kept.predict(X)).all()


def test_a_failed_fit_leaves_an_estimator_as_it_was() -> None:
    class Failing(Callback):
        def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
            if epoch == 2:
                raise ZeroDivisionError

    net = classify(warm_start=True, max_iter=3, solver="sgd", learning_rate="invscaling").fit(X, LABELS)
    known = net.n_iter_, net.t_, list(net.loss_curve_), net._optimizer.learning_rate
    weights = net.coefs_
    with pytest.raises(ZeroDivisionError):
        net.set_params(callbacks=[Failing()]).fit(X, LABELS)
    assert (net.n_iter_, net.t_, net.loss_curve_, net._optimizer.learning_rate) == known
    np.testing.assert_array_equal(net.coefs_[1], weights[1])
    fresh = classify(callbacks=[Failing()])
    with pytest.raises(ZeroDivisionError):
        fresh.fit(X, LABELS)
    assert set(vars(fresh)) == set(fresh.get_params())


def test_an_interrupt_keeps_what_was_trained() -> None:
    class Pressing(Callback):
        def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
            if epoch == 4:
                raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="Training interrupted by user"):
        stopped = classify(callbacks=[Pressing()]).fit(X, LABELS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = classify(max_iter=5).fit(X, LABELS)
    assert stopped.n_iter_ == 5
    np.testing.assert_array_equal(stopped.coefs_[0], expected.coefs_[0])


def test_an_interrupt_before_the_first_step() -> None:
    class Pressing(Callback):
        def begin(self, run: Any) -> None:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="Training interrupted by user"):
        stopped = classify(callbacks=[Pressing()]).fit(X, LABELS)
    assert stopped.n_iter_ == 0
    assert set(stopped.predict(X)) <= set(LABELS)


def test_a_model_that_is_not_trained() -> None:
    with pytest.raises(NotReadyError):
        _ = fastnn.Sequential([fastnn.Dense(2)]).network
    with pytest.raises(ValueError, match="not fitted"):  # scikit-learn's NotFittedError
        classify().predict(X)
