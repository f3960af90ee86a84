"""Models trained together: each as `fit` trains it alone, whatever becomes of the others."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import fastnn
from fastnn import ops, random
from fastnn.errors import InputError, InputTypeError, NotReadyError
from fastnn.program.trace import Program
from fastnn.training import chunks as loop
from fastnn.training import trainer
from fastnn.training.options import FitOptions
from fastnn.tuning.together import interleaved, train
from fastnn.tuning.together.interleaved import join_programs
from fastnn.tuning.together.train import train_together

RNG = np.random.default_rng(0)
X = RNG.normal(size=(203, 2)).astype("float32")
YES = (X[:, 0] * X[:, 1] > 0).astype(np.int64)
CLASSES = YES + (X[:, 0] > 1)
WORDS = np.where(YES, "yes", "no")
VALUES = np.stack([X[:, 0] ** 2, X.sum(axis=1)], axis=1)
NEW = (RNG.normal(size=(61, 2)).astype("float32"), RNG.integers(0, 2, 61))


def network(*layers: Any, seed: int = 0, dtype: str = "float32") -> fastnn.Sequential:
    return fastnn.Sequential(layers, seed=seed, dtype=dtype)


def small(seed: int, dtype: str = "float32") -> fastnn.Sequential:
    return network(fastnn.Dense(4, "tanh"), fastnn.Dense(1), seed=seed, dtype=dtype)


def shuffled(epoch: int) -> np.ndarray:
    """The order of an epoch that the first model, of seed 0, gives all of them."""
    return ops.shuffle(len(X), random.key(0, random.SHUFFLE), epoch)


def arrays(model: fastnn.Sequential) -> list[bytes]:
    state = model.optimizer_state
    assert state is not None
    return [array.tobytes() for array in (*model.weights.values(), *state.slots.values())]


TASKS: dict[str, tuple[str, Any, Any]] = {
    "yes or no": ("sigmoid_cross_entropy", (fastnn.Dense(4, "tanh"), fastnn.Dense(1)), YES),
    "sigmoid": ("sigmoid_cross_entropy", (fastnn.Dense(3, "relu"), fastnn.Dense(1, "sigmoid")), YES),
    "classes": ("softmax_cross_entropy", (fastnn.Dense(5, "elu"), fastnn.Dense(7, "gelu"), fastnn.Dense(3)), CLASSES),
    "softmax": ("softmax_cross_entropy", (fastnn.Dense(5), fastnn.Activation("relu"), fastnn.Dense(3, "softmax")), CLASSES),
    "one-hot": ("softmax_cross_entropy", (fastnn.Dense(5, "relu", use_bias=False), fastnn.Dense(3)), np.eye(3)[CLASSES]),
    "classes as values": ("quadratic", (fastnn.Dense(5, "relu"), fastnn.Dense(3, "sigmoid")), CLASSES),
    "values": ("mean_squared_error", (fastnn.Dense(6, "silu"), fastnn.Dense(2)), VALUES),
    "values with outliers": ("huber:delta=0.5", (fastnn.Dense(6, "silu"), fastnn.Dense(2)), VALUES),
    "counts": ("poisson", (fastnn.Dense(4, "tanh"), fastnn.Dense(1)), CLASSES),
    "rare classes": ("softmax_focal", (fastnn.Dense(4, "tanh"), fastnn.Dense(3)), CLASSES),
    "flat": (
        "softmax_cross_entropy",
        (fastnn.Flatten(), fastnn.Dense(6, "tanh"), fastnn.Flatten(), fastnn.Dense(3), fastnn.Flatten()),
        CLASSES,
    ),
}
OPTIMIZERS = [
    fastnn.SGD(0.1), fastnn.Momentum(0.05), fastnn.RMSprop(0.01), fastnn.AdamW(0.01),
    fastnn.Adam(fastnn.schedules.Cosine(0.02)), fastnn.Adam(0.01, clip_value=0.01), fastnn.NAdam(0.01),
    fastnn.Adam(0.01, ema=0.9),
]  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", ["vectorized", "threads"])
def test_each_has_the_bits_of_fit(method: str, task: str) -> None:
    loss, layers, y = TASKS[task]
    optimizer = OPTIMIZERS[list(TASKS).index(task) % len(OPTIMIZERS)]
    common: dict[str, Any] = {"loss": loss, "optimizer": optimizer, "batch_size": 32, "epochs": 3}
    common["validation_data"] = (X[:70], y[:70])
    given = [network(*layers, seed=seed) for seed in range(5)]
    l2 = [0.01 * g for g in range(5)]
    models, histories = train_together(given, X, y, l2=l2, l1=0.001, method=method, **common)
    assert models == given
    for g, (model, history) in enumerate(zip(models, histories, strict=True)):
        alone = network(*layers, seed=g)
        expected = alone.fit(X, y, l2=l2[g], l1=0.001, order=shuffled, verbose=0, **common)
        assert arrays(model) == arrays(alone)
        assert model.counters == alone.counters
        assert model.task == alone.task or model.task.kind == alone.task.kind  # type: ignore[union-attr]
        np.testing.assert_array_equal(model.predict(X), alone.predict(X))
        assert model.evaluate(X, y) == alone.evaluate(X, y)
        assert (history.method, history.diverged, history.batch_size, history.seed) == (method, "", 32, g)
        assert list(history.items()) == list(expected.items())


IMAGES = RNG.uniform(size=(203, 6, 5, 2)).astype("float32")
IMAGE_LAYERS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "pooled": ("vectorized", (fastnn.MaxPool2D(2), fastnn.Flatten(), fastnn.Dense(4, "tanh"), fastnn.Dense(3))),
    "pooled three times": (
        "vectorized",
        (
            fastnn.MeanPool2D(2, 1, "same"), fastnn.L2Pool2D((2, 1)), fastnn.MaxPool2D(2, 1), fastnn.Flatten(),
            fastnn.Dense(3),
        ),
    ),
    "convolution": (
        "threads", (fastnn.Conv2D(3, 3, activation="relu"), fastnn.MaxPool2D(2), fastnn.Flatten(), fastnn.Dense(3)),
    ),
    "mean of all": ("threads", (fastnn.Conv2D(3, 3), fastnn.BatchNorm(), fastnn.GlobalMeanPool2D(), fastnn.Dense(3))),
}  # fmt: skip


@pytest.mark.parametrize("case", IMAGE_LAYERS)
def test_networks_of_images_have_the_bits_of_fit(case: str) -> None:
    """Poolings are computed for all models at a time, convolutions a model a core."""
    method, layers = IMAGE_LAYERS[case]
    common: dict[str, Any] = {
        "optimizer": "adam",
        "batch_size": 32,
        "epochs": 2,
        "validation_data": (IMAGES[:70], CLASSES[:70]),
    }
    models, histories = train_together([network(*layers, seed=seed) for seed in range(5)], IMAGES, CLASSES, **common)
    for g, (model, history) in enumerate(zip(models, histories, strict=True)):
        alone = network(*layers, seed=g)
        expected = alone.fit(IMAGES, CLASSES, order=shuffled, verbose=0, **common)
        assert history.method == method
        assert arrays(model) == arrays(alone)
        assert list(history.items()) == list(expected.items())


def test_a_pooling_behind_layers_with_parameters_is_computed_for_all_models() -> None:
    """Behind `Dense` there are images of each model: their channels are the models'."""

    class Rows(fastnn.Layer):
        """(B, 12) as images (B, 4, 3)."""

        records_alike = vectorizes = True

        def forward(self, x: Any, training: bool) -> Any:
            return ops.reshape(x, (x.shape[0], 4, 3))

        def forward_vectorized(self, x: Any, grouped: bool) -> Any:
            return ops.reshape(x, (x.shape[0], 4, 3, *x.shape[2:]))

    for pool in (fastnn.MaxPool2D(2, 1), fastnn.MeanPool2D((2, 3)), fastnn.L2Pool2D(2, padding="same")):
        layers = (fastnn.Dense(12, "tanh"), Rows(), pool, fastnn.Flatten(), fastnn.Dense(3))
        common: dict[str, Any] = {"optimizer": "momentum", "batch_size": 32, "epochs": 2}
        models, _ = train_together([network(*layers, seed=g) for g in range(3)], X, CLASSES, method="vectorized", **common)
        for g, model in enumerate(models):
            alone = network(*layers, seed=g)
            alone.fit(X, CLASSES, order=shuffled, verbose=0, **common)
            assert arrays(model) == arrays(alone)


def test_a_convolution_is_not_vectorized_and_says_so() -> None:
    _, layers = IMAGE_LAYERS["convolution"]
    with pytest.raises(InputError, match="there is a Conv2D layer"):
        train_together([network(*layers, seed=g) for g in range(2)], IMAGES, CLASSES, method="vectorized")


def largest_error(y: np.ndarray, predictions: np.ndarray) -> float:
    """A metric of one's own."""
    return float(np.abs(y - predictions).max())


MANY = np.random.default_rng(1).normal(size=(601, 2)).astype("float32")
"""More than two blocks of evaluation, the last one smaller."""
KINDS: dict[str, tuple[str, Any, Any, list[Any]]] = {
    "binary": ("sigmoid_cross_entropy", (fastnn.Dense(4, "tanh"), fastnn.Dense(1)), MANY[:, 0] > 0, ["f1"]),
    "multilabel": ("sigmoid_cross_entropy", (fastnn.Dense(4, "tanh"), fastnn.Dense(2)), MANY > 0, []),
    "classes": ("softmax_cross_entropy", (fastnn.Dense(4, "tanh"), fastnn.Dense(3)), (MANY > 0).sum(axis=1), ["f1"]),
    "values": ("mean_squared_error", (fastnn.Dense(4, "tanh"), fastnn.Dense(1)), MANY[:, 1] ** 2, ["mse", largest_error]),
}


@pytest.mark.parametrize("validated", ["", "validated", "weighted"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["vectorized", "threads", "dropout"])
def test_whole_histories(method: str, kind: str, validated: str) -> None:
    """The same quantities in the same order as `fit`, and the same bits; penalties only where there are some."""
    loss, layers, y, metrics = KINDS[kind]
    layers = (layers[0], fastnn.Dropout(0.3), layers[1]) if method == "dropout" else layers
    common: dict[str, Any] = {"loss": loss, "optimizer": "momentum", "batch_size": 50, "epochs": 2}
    if validated:
        common |= {"validation_data": (MANY, y), "metrics": metrics}
    if validated == "weighted":
        weights = np.random.default_rng(2).uniform(0, 2, len(y))
        common |= {"validation_data": (MANY, y, weights), "metrics": [metric for metric in metrics if metric != largest_error]}
    l2, l1 = [0.0, 0.1, 0.0, 0.2], [0.0, 0.0, 0.1, 0.2]
    _, histories = train_together(
        [network(*layers, seed=seed) for seed in range(4)], X, y[: len(X)], l2=l2, l1=l1,
        method="threads" if method == "dropout" else method, **common,
    )  # fmt: skip
    for g, history in enumerate(histories):
        alone = network(*layers, seed=g)
        expected = alone.fit(X, y[: len(X)], l2=l2[g], l1=l1[g], order=shuffled, verbose=0, **common)
        assert list(history.items()) == list(expected.items())
        assert ("penalty" in history) == (g > 0)
        assert (history.precision, history.autotuned) == (expected.precision, expected.autotuned)
        assert (history.training_rows, history.validation_rows) == (expected.training_rows, expected.validation_rows)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["vectorized", "threads"])
@pytest.mark.usefixtures("cuda_host")
def test_whole_histories_on_a_gpu(method: str, kind: str) -> None:
    """The same quantities; their sums are taken in another order when vectorized."""
    loss, layers, y, metrics = KINDS[kind]
    common: dict[str, Any] = {"loss": loss, "optimizer": "momentum", "batch_size": 50, "epochs": 2, "device": "cuda"}
    common |= {"validation_data": (X, y[: len(X)]), "metrics": metrics}
    l2 = [0.0, 0.1, 0.0, 0.2]
    _, histories = train_together([network(*layers, seed=g) for g in range(4)], X, y[: len(X)], l2=l2, method=method, **common)
    for g, history in enumerate(histories):
        expected = network(*layers, seed=g).fit(X, y[: len(X)], l2=l2[g], order=shuffled, verbose=0, **common)
        assert (list(history), history.device) == (list(expected), "cuda:0")
        for name, column in history.items():
            np.testing.assert_allclose(column, expected[name], rtol=1e-5 if method == "vectorized" else 0)


@pytest.mark.parametrize("method", ["vectorized", "threads"])
def test_an_order_with_a_state_of_its_own(method: str) -> None:
    """It is called once an epoch, whichever model asks first, and may fill the same array again."""
    asked: list[int] = []

    def orders() -> Any:
        rng, places = np.random.default_rng(5), np.arange(len(X))

        def order(epoch: int) -> np.ndarray:
            asked.append(epoch)
            rng.shuffle(places)
            return places

        return order

    settings: dict[str, Any] = {"loss": "sigmoid_cross_entropy", "epochs": 3}
    models, histories = train_together(
        [small(g) for g in range(5)], X, YES, order=orders(), threads=2, method=method, **settings
    )
    assert asked == [0, 1, 2]
    for g, model in enumerate(models):
        alone = small(g)
        expected = alone.fit(X, YES, order=orders(), verbose=0, **settings)
        assert arrays(model) == arrays(alone)
        assert histories[g] == expected


@pytest.mark.parametrize("method", ["vectorized", "threads"])
def test_a_batch_that_is_too_large_is_told_once(method: str) -> None:
    with pytest.warns(UserWarning, match="batch_size 500 is more than the 203 examples") as told:
        _, histories = train_together(
            [small(g) for g in range(4)], X, YES, loss="sigmoid_cross_entropy", batch_size=500, epochs=1, method=method
        )
    assert len(told) == 1
    assert {history.batch_size for history in histories} == {len(X)}


@pytest.mark.parametrize("groups", [1, 2, 16, 33])
def test_the_number_of_models_changes_nothing(groups: int) -> None:
    settings: dict[str, Any] = {"loss": "sigmoid_cross_entropy", "batch_size": 50, "epochs": 2, "method": "vectorized"}
    many, _ = train_together([small(seed) for seed in range(groups)], X, YES, **settings)
    alone, _ = train_together([small(0)], X, YES, **settings)
    assert arrays(many[0]) == arrays(alone[0])
    last = small(groups - 1)
    last.fit(X, YES, loss="sigmoid_cross_entropy", batch_size=50, epochs=2, order=shuffled, verbose=0)
    assert arrays(many[-1]) == arrays(last)


@pytest.mark.parametrize("engine", ["cpu", "numpy"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_no_bit(engine: str, threads: int) -> None:
    settings: dict[str, Any] = {"loss": "sigmoid_cross_entropy", "epochs": 2, "method": "vectorized", "device": engine}
    found, _ = train_together([small(seed, "float64") for seed in range(4)], X, YES, threads=threads, **settings)
    expected, _ = train_together([small(seed, "float64") for seed in range(4)], X, YES, **settings)
    assert [arrays(m) for m in found] == [arrays(m) for m in expected]


@pytest.mark.parametrize("method", ["vectorized", "threads"])
def test_one_that_diverges_spoils_no_other(method: str) -> None:
    def wild(seed: int) -> fastnn.Sequential:
        model = network(fastnn.Dense(4, "relu"), fastnn.Dense(2), seed=seed).build(2)
        if seed == 3:
            model.set_weights({"1.weight": np.full((4, 2), 1e9, "float32"), "0.weight": np.full((2, 4), 1e9, "float32")})
        return model

    settings: dict[str, Any] = {"loss": "quadratic", "optimizer": fastnn.SGD(0.01), "batch_size": 20, "epochs": 2}
    models, histories = train_together([wild(seed) for seed in range(6)], X, VALUES, method=method, **settings)
    assert [bool(history.diverged) for history in histories] == [seed == 3 for seed in range(6)]
    assert "epoch 1, step" in histories[3].diverged
    assert all(np.isfinite(array).all() for model in models for array in model.weights.values())
    for seed in range(6):
        alone = wild(seed)
        if seed == 3:
            with pytest.raises(fastnn.DivergenceError):
                alone.fit(X, VALUES, order=shuffled, verbose=0, **settings)
        else:
            alone.fit(X, VALUES, order=shuffled, verbose=0, **settings)
            assert len(histories[seed]["loss"]) == 2
        assert arrays(models[seed]) == arrays(alone)
        assert models[seed].counters == alone.counters


# --- interleaved --------------------------------------------------------------------------------------------------------


def own_loss(outputs: Any, targets: Any) -> Any:
    return ops.mean(ops.abs(outputs - targets), 1)


LAYERS: dict[str, tuple[Any, ...]] = {
    "batch norm": (fastnn.Dense(4), fastnn.BatchNorm(), fastnn.Activation("relu"), fastnn.Dense(2)),
    "layer norm": (fastnn.Dense(4), fastnn.LayerNorm(), fastnn.Activation("relu"), fastnn.Dense(2)),
    "dropout": (fastnn.Dense(8, "elu"), fastnn.Dropout(0.4), fastnn.Dense(2)),
    "flat": (fastnn.Flatten(), fastnn.Dense(4, "gelu"), fastnn.Dense(2)),
}


@pytest.mark.parametrize("device", ["cpu", pytest.param("numpy", marks=pytest.mark.slow)])
@pytest.mark.parametrize("layers", LAYERS)
def test_interleaved_each_has_the_bits_of_fit(layers: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the layers are, with rates, penalties and frozen layers of their own, more of them than one program takes, one
    row too many for the last mini-batch, and sparse rows, which come in blocks."""

    def made(seed: int) -> fastnn.Sequential:
        model = network(*LAYERS[layers], seed=seed)
        return model.freeze(len(LAYERS[layers]) - 1) if seed % 4 == 3 else model

    monkeypatch.setattr(train, "INTERLEAVED", 3)
    groups, rows = 11, scipy.sparse.csr_matrix(np.where(X > 0, X, 0))
    rates, l2 = [0.0, 0.1, 0.01] * 4, [0.0, 0.1] * 6
    common: dict[str, Any] = {
        "loss": own_loss, "batch_size": 101, "epochs": 2, "validation_data": (X[:50], VALUES[:50]), "device": device,
    }  # fmt: skip
    models, histories = train_together(
        [made(seed) for seed in range(groups)], rows, VALUES, learning_rate=rates[:groups], l2=l2[:groups],
        optimizer=fastnn.Momentum(clip_norm=0.5), threads=2, method="threads", **common,
    )  # fmt: skip
    for g, (model, history) in enumerate(zip(models, histories, strict=True)):
        alone, optimizer = made(g), fastnn.Momentum(rates[g], clip_norm=0.5)
        expected = alone.fit(rows, VALUES, optimizer=optimizer, l2=l2[g], order=shuffled, verbose=0, **common)
        assert arrays(model) == arrays(alone)
        assert list(history.items()) == list(expected.items())
        assert (history.seed, history.threads, model.counters) == (g, 1, alone.counters)
        model.fit(rows.toarray(), VALUES, loss=own_loss, epochs=1, optimizer=optimizer, verbose=0, device=device)
        alone.fit(rows.toarray(), VALUES, loss=own_loss, epochs=1, optimizer=optimizer, verbose=0, device=device)
        assert arrays(model) == arrays(alone)


@pytest.mark.parametrize("method", ["vectorized", "threads"])
def test_averages_are_those_of_fit_also_where_a_model_diverges(method: str) -> None:
    """That one keeps the average of its last finite step."""
    rates, layers = [0.01, 1e6, 0.02, 0.05], (fastnn.Dense(4, "relu"), fastnn.Dense(1))
    common: dict[str, Any] = {"loss": "quadratic", "batch_size": 20, "epochs": 3, "device": "cpu"}
    models, histories = train_together(
        [network(*layers, seed=seed) for seed in range(4)], X, VALUES[:, :1], learning_rate=rates,
        optimizer=fastnn.SGD(ema=0.9), method=method, **common,
    )  # fmt: skip
    assert [bool(history.diverged) for history in histories] == [False, True, False, False]
    for g, model in enumerate(models):
        alone, options = network(*layers, seed=g), {"optimizer": fastnn.SGD(rates[g], ema=0.9), "order": shuffled, **common}
        with pytest.raises(fastnn.DivergenceError) if histories[g].diverged else contextlib.nullcontext():
            alone.fit(X, VALUES[:, :1], verbose=0, **options)
        assert arrays(model) == arrays(alone)
        assert all(np.isfinite(weights).all() for weights in model.averaged().weights.values())


class Kept(fastnn.layers.Layer):
    """A layer of one's own that records something else in every model."""

    def __init__(self) -> None:
        self.share = 1.0

    def forward(self, x: Any, training: bool) -> Any:
        return ops.dropout(x, 1.0 - self.share, self.key, self.step) if training else x * self.share


def test_interleaved_layers_of_ones_own_are_recorded_for_each_model() -> None:
    def made(seed: int) -> fastnn.Sequential:
        kept = Kept()
        kept.share = 1.0 - seed / 10
        return network(fastnn.Dense(4, "tanh"), kept, fastnn.Dense(1), seed=seed)

    settings: dict[str, Any] = {"loss": "sigmoid_cross_entropy", "epochs": 2, "validation_data": NEW}
    models, histories = train_together([made(seed) for seed in range(4)], X, YES, threads=1, **settings)
    for seed, model in enumerate(models):
        alone = made(seed)
        assert histories[seed] == alone.fit(X, YES, order=shuffled, verbose=0, **settings)
        assert arrays(model) == arrays(alone)


def test_interleaved_a_mini_batch_is_gathered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    programs: list[Program] = []
    monkeypatch.setattr(interleaved, "join_programs", lambda given: programs.append(join_programs(given)) or programs[-1])
    train_together(
        [small(seed) for seed in range(6)], X, YES, loss="sigmoid_cross_entropy", epochs=2, threads=2, method="threads"
    )
    assert len(programs) == 2
    for program in programs:
        kernels = [call.kernel for call in program.calls]
        assert [kernels.count(name) for name in ("gather_rows", "advance", "adam")] == [2, 1, 3]
        assert not {"X.1", "y.1", "order.1"} & set(program.inputs)


def test_interleaved_a_mini_batch_is_standardized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    programs: list[Program] = []
    monkeypatch.setattr(interleaved, "join_programs", lambda parts: programs.append(join_programs(parts)) or programs[-1])
    times = 1_700_000_000 + np.arange(X.size).reshape(X.shape)
    fitted = fastnn.Standardizer().fit(times)

    def standardized(seed: int) -> fastnn.Sequential:
        return network(fitted, fastnn.Dense(3, "tanh"), fastnn.Dense(1), seed=seed)

    settings: dict[str, Any] = {"loss": "sigmoid_cross_entropy", "epochs": 2}
    models, histories = train_together(
        [standardized(seed) for seed in range(4)], times, YES, threads=1, method="threads", **settings
    )
    assert [[call.kernel for call in p.calls].count("gather_standardized") for p in programs] == [1] * len(programs) != []
    for seed, model in enumerate(models):
        alone = standardized(seed)
        assert histories[seed] == alone.fit(times, YES, order=shuffled, verbose=0, **settings)
        assert arrays(model) == arrays(alone)


def test_models_without_parameters() -> None:
    def bare() -> fastnn.Sequential:
        return network(fastnn.Activation("tanh"))

    _, histories = train_together([bare() for _ in range(4)], X, YES, batch_size=50, epochs=2)
    assert histories[3] == bare().fit(X, YES, batch_size=50, epochs=2, order=shuffled, verbose=0)


@pytest.mark.parametrize(("units", "size"), [(1000, 6), (20_000, 2), (60_000, 1)])
def test_interleaved_as_many_as_a_cache_holds(units: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the two moments of Adam: 6 models of 48 KB, 2 of 960 KB, and one alone of 2.9 MB."""
    together_at_a_time: list[int] = []
    monkeypatch.setattr(
        interleaved, "join_programs", lambda given: together_at_a_time.append(len(given)) or join_programs(given)
    )
    models = [network(fastnn.Dense(units), fastnn.Dense(1), seed=seed) for seed in range(6)]
    train_together(models, X[:8], YES[:8], loss="sigmoid_cross_entropy", epochs=1, batch_size=8, threads=1, method="threads")
    assert together_at_a_time == ([size] * (6 // size) if size > 1 else [])


def test_interleaved_all_diverge() -> None:
    """One after another, the first one first: others then lead."""

    def wild(seed: int) -> fastnn.Sequential:
        model = network(fastnn.Dense(2), seed=seed).build(2)
        model.set_weights({"0.weight": np.full((2, 2), 10.0 ** (18 - 9 * seed), "float32")})
        return model

    settings: dict[str, Any] = {"loss": "quadratic", "optimizer": fastnn.SGD(50.0), "batch_size": 20, "epochs": 3}
    models, histories = train_together([wild(seed) for seed in range(3)], X, VALUES, threads=1, method="threads", **settings)
    for seed, (model, history) in enumerate(zip(models, histories, strict=True)):
        alone = wild(seed)
        with pytest.raises(fastnn.DivergenceError) as error:
            alone.fit(X, VALUES, order=shuffled, verbose=0, **settings)
        assert history.diverged == str(error.value)
        assert arrays(model) == arrays(alone)
        assert model.counters == alone.counters
    assert len({history.diverged for history in histories}) == 3


@pytest.mark.parametrize("method", ["vectorized", "threads"])
@pytest.mark.parametrize("wild", [{3}, set(range(6))])
def test_divergences_that_validation_shows(method: str, wild: set[int]) -> None:
    """The models whose outputs for the validation data are not finite leave the others, as a training of their own ends."""

    def made(seed: int) -> fastnn.Sequential:
        model = network(fastnn.Dense(2), seed=seed).build(2)
        model.set_weights({"0.weight": np.full((2, 2), 2.0 if seed in wild else 0.1, "float32")})
        return model

    far = np.full((4, 2), 1e19, "float32"), np.zeros((4, 2), "float32")  # the squares of what the wild ones say overflow
    near = np.zeros((len(X), 2), "float32"), np.zeros((len(X), 2), "float32")
    options: dict[str, Any] = {
        "loss": "quadratic", "optimizer": fastnn.SGD(0.0), "batch_size": 20, "epochs": 2, "validation_data": far,
    }  # fmt: skip
    models, histories = train_together([made(seed) for seed in range(6)], *near, method=method, threads=1, **options)
    for seed, (model, history) in enumerate(zip(models, histories, strict=True)):
        alone = made(seed)
        if seed in wild:
            with pytest.raises(fastnn.DivergenceError, match=re.escape(history.diverged)):
                alone.fit(*near, verbose=0, **options)
            assert history == {}
        else:
            assert not history.diverged
            assert history == alone.fit(*near, order=shuffled, verbose=0, **options)
        assert arrays(model) == arrays(alone)
        assert model.counters == alone.counters


def test_vectorized_all_diverge() -> None:
    """The training ends with the last one, and each is where it is when it is trained alone."""

    def wild(seed: int) -> fastnn.Sequential:
        model = network(fastnn.Dense(2), seed=seed).build(2)
        model.set_weights({"0.weight": np.full((2, 2), 10.0 ** (18 - 9 * seed), "float32")})
        return model

    settings: dict[str, Any] = {"loss": "quadratic", "optimizer": fastnn.SGD(50.0), "batch_size": 20, "epochs": 30}
    orders: list[int] = []
    models, histories = train_together(
        [wild(seed) for seed in range(3)], X, VALUES, method="vectorized",
        **settings, order=lambda epoch: orders.append(epoch) or shuffled(epoch),
    )  # fmt: skip
    for seed, (model, history) in enumerate(zip(models, histories, strict=True)):
        alone = wild(seed)
        with pytest.raises(fastnn.DivergenceError, match=history.diverged):
            alone.fit(X, VALUES, order=shuffled, verbose=0, **settings)
        assert arrays(model) == arrays(alone)
        assert model.counters == alone.counters
    assert len(orders) < 30, "nobody was left to go on"


def test_rates_of_their_own() -> None:
    rates = [0.1, 0.01, 0.001, 0.03]
    settings = [{"seed": g, "units": 4, "learning_rate": rate, "l2": 0.1 * g} for g, rate in enumerate(rates)]

    def build(seed: int, units: int) -> fastnn.Sequential:
        return network(fastnn.Dense(units, "tanh"), fastnn.Dense(1), seed=seed)

    models, histories = train_together((build, settings), X, YES, loss="sigmoid_cross_entropy", optimizer="momentum", epochs=2)
    assert {history.method for history in histories} == {"vectorized"}
    for g, rate in enumerate(rates):
        alone = small(g)
        alone.fit(
            X,
            YES,
            loss="sigmoid_cross_entropy",
            optimizer=fastnn.Momentum(rate),
            epochs=2,
            l2=0.1 * g,
            order=shuffled,
            verbose=0,
        )
        assert arrays(models[g]) == arrays(alone)


def test_a_rate_of_0_moves_the_state_of_the_optimizer() -> None:
    rates = [0.1, 0.0, 0.001, 1e-60]
    models, _ = train_together(
        [small(g) for g in range(4)], X, YES, learning_rate=rates, loss="sigmoid_cross_entropy", optimizer="momentum", epochs=2
    )
    for g, rate in enumerate(rates):
        alone = small(g)
        options: dict[str, Any] = {"loss": "sigmoid_cross_entropy", "epochs": 2, "order": shuffled, "verbose": 0}
        alone.fit(X, YES, optimizer=fastnn.Momentum(rate), **options)
        assert arrays(models[g]) == arrays(alone)


@pytest.mark.parametrize("method", ["vectorized", "threads"])
def test_frozen_layers_of_their_own(method: str) -> None:
    """The first model has none, so that what is frozen in the others is not what is frozen in it."""
    frozen: list[tuple[int, ...]] = [(), (0,), (1,), (0,)]

    def made() -> list[fastnn.Sequential]:
        return [small(g).freeze(*layers) if layers else small(g) for g, layers in enumerate(frozen)]

    settings: dict[str, Any] = {"loss": "sigmoid_cross_entropy", "optimizer": fastnn.AdamW(0.01, weight_decay=0.1), "epochs": 2}
    models, _ = train_together(made(), X, YES, l2=0.1, method=method, **settings)
    for model, alone in zip(models, made(), strict=True):
        alone.fit(X, YES, l2=0.1, order=shuffled, verbose=0, **settings)
        assert arrays(model) == arrays(alone)
        assert model.network.frozen == alone.network.frozen


def test_which_way_is_taken() -> None:
    def method(*layers: Any, models: int = 4, **settings: Any) -> str:
        given = [network(*layers, seed=seed) for seed in range(models)]
        return train_together(given, X, CLASSES, epochs=1, **settings)[1][0].method

    few = fastnn.Dense(4, "tanh"), fastnn.Dense(3)
    assert method(*few) == "vectorized"
    assert method(*few, models=3) == "threads"
    assert method(fastnn.Dense(300, "relu"), fastnn.Dense(3)) == "threads"
    for layer in (fastnn.Dropout(0.5), fastnn.BatchNorm(), fastnn.Activation("softmax")):
        assert method(few[0], layer, few[1]) == "threads"
        with pytest.raises(InputError, match='method="vectorized" is not possible'):
            method(few[0], layer, few[1], method="vectorized")
    assert method(*few, optimizer=fastnn.SGD(0.1, clip_norm=1.0)) == "threads"


def test_models_go_on() -> None:
    models, _ = train_together([small(seed) for seed in range(4)], X, YES, loss="sigmoid_cross_entropy", epochs=2)
    alone = small(2)
    alone.fit(X, YES, loss="sigmoid_cross_entropy", epochs=2, order=shuffled, verbose=0)
    for model in (models[2], alone):
        model.fit(X, YES, loss="sigmoid_cross_entropy", epochs=1, verbose=0)
    assert arrays(models[2]) == arrays(alone)
    _, histories = train_together(models, X, YES, loss="sigmoid_cross_entropy", epochs=1)
    assert histories[0].method == "threads"


@pytest.mark.parametrize("method", ["vectorized", "threads"])
def test_what_is_refused_changes_nothing(method: str) -> None:
    models = [small(seed) for seed in range(4)]
    models[1].build(2)
    before = models[1].weights
    fine: dict[str, Any] = {"loss": "sigmoid_cross_entropy", "epochs": 1, "method": method}
    other = network(fastnn.Dense(5, "tanh"), fastnn.Dense(1))
    wrong: list[tuple[Any, Any, dict[str, Any], str]] = [
        ([], YES, {}, "at least one model"),
        ([*models, other], YES, {}, "models of the same layers"),
        ([small(0), small(0, "float64")], YES, {}, "models of the same layers"),
        ([models[0], models[0]], YES, {}, "there twice"),
        (models, YES, {"l2": [0.1]}, "one a model"),
        (models, YES, {"l1": -1.0}, ">= 0"),
        (models, YES, {"learning_rate": float("nan")}, ">= 0"),
        (models, YES, {"learning_rate": np.array(-0.1)}, ">= 0"),
        (models, YES, {"learning_rate": "0.1"}, "finite number.*got '0.1'"),
        (models, YES, {"batch_size": 0}, "batch_size"),
        (models, YES, {"batch_size": "auto"}, "batch_size"),
        (models, YES, {"loss": "sigmoid"}, "no loss is called"),
        (models, YES[:7], {}, "y"),
        (models, YES, {"validation_data": X}, "validation"),
        (models, YES, {"metrics": ["f1"]}, "validation_data"),
        (models, YES, {"metrics": ["f2"], "validation_data": (X, YES)}, "f2"),
        (models, WORDS, {"metrics": ["r2"], "validation_data": (X, WORDS)}, "is for numbers"),
        (models, YES, {"order": lambda epoch: np.array([0, 999])}, "order"),
        (models, YES, {"order": lambda epoch: np.array([0.5])}, "integers"),
        (models, YES, {"method": "vector"}, "method"),
        (models, YES, {"learning_rate": 0.1, "optimizer": OPTIMIZERS[4]}, "schedule"),
    ]
    for given, y, settings, message in wrong:
        with pytest.raises(InputError, match=message):
            train_together(given, X, y, **{**fine, **settings})
    with pytest.raises(InputTypeError, match="Sequential"):
        train_together([models[0], "model"], X, YES, **fine)
    with pytest.raises(InputError, match="NaN"):
        train_together(models, np.where(X > 2, np.nan, X), YES, **fine)
    with pytest.raises(InputError, match=r"inputs of shape \(2,\), not \(3,\)"):
        train_together(models, np.hstack([X, X[:, :1]]), YES, **fine)
    with models[2].reserve(), pytest.raises(NotReadyError, match="being trained already"):
        train_together(models, X, YES, **fine)
    with pytest.raises(InputError, match="nothing is left to train"):
        train_together([*models[:3], small(3).freeze()], X, YES, **fine)
    assert [model.built for model in models] == [False, True, False, False]
    assert all((model.task, model.trained, model.loss, model.optimizer) == (None,) * 4 for model in models)
    assert all((models[1].weights[name] == array).all() for name, array in before.items())
    assert all(model.counters.step == 0 and model.optimizer_state is None for model in models)


@pytest.mark.parametrize("method", ["vectorized", "threads"])
def test_an_error_in_the_middle_leaves_them_as_they_were(method: str) -> None:
    def order(epoch: int) -> np.ndarray:
        if epoch == 1:
            raise RuntimeError("enough")
        return shuffled(epoch)

    models = [small(seed) for seed in range(4)]
    models[0].build(2)
    before = models[0].weights
    with pytest.raises(RuntimeError, match="enough"):
        train_together(models, X, YES, loss="sigmoid_cross_entropy", epochs=2, order=order, method=method)
    assert [model.built for model in models] == [True, False, False, False]
    assert all((models[0].weights[name] == array).all() for name, array in before.items())
    assert all((model.task, model.trained, model.loss, model.optimizer) == (None,) * 4 for model in models)


def test_others_stop_in_the_middle_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one fails, or Ctrl-C comes, nobody waits for the end of an epoch."""
    monkeypatch.setattr(loop, "LOG_ROWS", 1)

    def going_on() -> None:
        raise train._Stopped

    watch, model = train._Watch(going_on), small(0)
    with pytest.raises(train._Stopped):
        model.fit(X, YES, loss="sigmoid_cross_entropy", batch_size=1, callbacks=[watch], verbose=0)
    assert model.counters.step == 1


def test_interleaved_models_stop_in_the_middle_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOG_ROWS", 1)
    chunks: list[int] = []

    def going_on() -> None:
        chunks.append(1)
        if len(chunks) == 3:
            raise train._Stopped

    settings = FitOptions(loss="sigmoid_cross_entropy", batch_size=1, threads=1, verbose=0)
    models = [small(0), small(1)]
    leader = trainer.Trainer(models[0], X, YES, settings)
    runs = [leader, trainer.Trainer(models[1], X, YES, settings, leader)]
    with pytest.raises(train._Stopped):
        interleaved.Interleaved(runs, going_on).train()
    assert [model.counters.step for model in models] == [3, 3]


@pytest.mark.parametrize("method", ["vectorized", "threads"])
def test_a_model_that_is_trained_elsewhere_is_left_alone(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where that training begins when this one has looked already."""
    models = [small(seed) for seed in range(4)]

    def meanwhile(*given: Any) -> None:
        models[2]._training.acquire()
        models[2].build(2).set_weights({"0.bias": np.ones_like(models[2].weights["0.bias"])})

    monkeypatch.setattr(train, "_obstacle", meanwhile)
    with pytest.raises(NotReadyError, match="being trained already"):
        train_together(models, X, YES, loss="sigmoid_cross_entropy", epochs=1, method=method)
    assert [model.built for model in models] == [False, False, True, False]
    assert (models[2].weights["0.bias"] == 1).all()


@pytest.mark.parametrize("method", ["vectorized", "threads"])
def test_columns_of_a_frame_are_known_by_name(method: str) -> None:
    frame = pd.DataFrame(X, columns=["a", "b"])
    models, _ = train_together(
        [small(seed) for seed in range(4)], frame, YES, loss="sigmoid_cross_entropy", epochs=1, method=method
    )
    for model in models:
        assert model.feature_names == ("a", "b")
        np.testing.assert_array_equal(model(frame[["b", "a"]]), model(X))
