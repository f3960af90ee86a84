"""Training on mini-batches that the user makes: the same bits as on arrays, and one step for each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import schedules
from fastnn.callbacks import Callback
from fastnn.data import batches
from fastnn.errors import FastnnError, InputError, InputTypeError

N, FEATURES, BATCH, PER_EPOCH = 67, 5, 16, 5
Pairs = list[tuple[Any, ...]]


def examples(n: int = N) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    return rng.standard_normal((n, FEATURES)).astype("float32"), rng.integers(0, 3, n)


def network(dtype: str = "float32") -> fastnn.Sequential:
    layers = [fastnn.Dense(8), fastnn.BatchNorm(), fastnn.Activation("relu"), fastnn.Dropout(0.2), fastnn.Dense(3)]
    return fastnn.Sequential(layers, seed=7, dtype=dtype)


def in_turn(epoch: int) -> np.ndarray:
    return np.arange(N)


def cut(*arrays: Any, sizes: tuple[int, ...] = (16, 16, 16, 16, 3)) -> Pairs:
    ends = np.cumsum(sizes)
    return [tuple(a[end - size : end] for a in arrays) for size, end in zip(sizes, ends, strict=True)]


def outcome(model: fastnn.Sequential, history: Any = None) -> Any:
    """Everything that must agree; the count of epochs where there is a history."""
    state = model.optimizer_state
    assert state is not None
    arrays = {name: array.tobytes() for name, array in {**model.weights, **state.slots}.items()}
    counts = (state.updates, model.counters.step)
    return (arrays, counts) if history is None else (arrays, counts, model.counters.epoch, dict(history))


def on_arrays(*, dtype: str = "float32", **options: Any) -> Any:
    model = network(dtype)
    given = {"batch_size": BATCH, "epochs": 3, "verbose": 0, "order": in_turn, **options}
    return outcome(model, model.fit(*examples(), **given))


def on_batches(given: Any, *, dtype: str = "float32", **options: Any) -> Any:
    model = network(dtype)
    return outcome(model, model.fit(given, **{"epochs": 3, "verbose": 0, **options}))


def weights() -> np.ndarray:
    return np.random.default_rng(9).random(N) + 0.1


# --- the same as on arrays ------------------------------------------------------------------------------------------


class Again:
    """Something that can be gone through, and is no list."""

    def __iter__(self) -> Iterator[Any]:
        yield from cut(*examples())


@pytest.mark.parametrize(
    "given",
    [
        cut(*examples()),
        tuple(cut(*examples())),
        [list(pair) for pair in cut(*examples())],
        Again(),
        lambda: cut(*examples()),
        lambda: iter(cut(*examples())),
        lambda: (pair for pair in cut(*examples())),
        [(X, y.tolist()) for X, y in cut(*examples())],
        [(np.asfortranarray(X), y.astype("uint8")) for X, y in cut(*examples())],
    ],
    ids=["list", "tuple", "lists in a list", "iterable", "function", "iterators", "generators", "numbers", "layouts"],
)
def test_iterables(given: Any) -> None:
    assert on_batches(given) == on_arrays()


def test_an_iterator_lasts_for_one_epoch() -> None:
    assert on_batches(iter(cut(*examples())), epochs=1) == on_arrays(epochs=1)
    model = network()
    with pytest.raises(InputError, match="an iterator can be gone through once, and there are 3 epochs"):
        model.fit(iter(cut(*examples())), epochs=3, verbose=0)
    assert not model.built


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "float64"},
        {"optimizer": fastnn.SGD(0.1, momentum=0.9), "l2": 1e-2, "l1": 1e-3},
        {"optimizer": fastnn.SGD(schedules.Exponential(0.1, 0.5))},
        {"validation_data": examples(40), "metrics": ["f1"]},
        {"threads": 2},
    ],
    ids=["float64", "penalties", "epochs", "validation", "threads"],
)
def test_options(options: dict[str, Any]) -> None:
    assert on_batches(cut(*examples()), **options) == on_arrays(**options)


def test_weights() -> None:
    expected = on_arrays(sample_weight=weights())
    assert on_batches(cut(*examples(), weights())) == expected
    assert on_batches(cut(*examples(), weights().astype("float32").tolist())) == expected
    assert expected != on_arrays()


def test_strings() -> None:
    X, y = examples()
    names = np.array(["ant", "bee", "cow"])
    model = network()
    history = model.fit(cut(X, names[y]), classes=names, epochs=3, verbose=0)
    assert outcome(model, history) == on_arrays()
    assert list(model.classes_) == list(names)
    assert set(model.predict(X)) <= set(names)
    other = network()
    with pytest.raises(FastnnError, match=r"mini-batch 1.*dog"):
        other.fit([(X, names[y]), (X, np.full(N, "dog"))], classes=names, epochs=1, verbose=0)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(library: str) -> None:
    frames = pytest.importorskip(library)
    X, y = examples()
    names = [f"x{i}" for i in range(FEATURES)]
    model = network()
    pairs = [(frames.DataFrame({n: X[:, i] for i, n in enumerate(names)}), frames.Series(y)) for X, y in cut(X, y)]
    history = model.fit(pairs, epochs=3, verbose=0)
    assert outcome(model, history) == on_arrays()
    assert model.feature_names == tuple(names)
    other = frames.DataFrame({n: X[:, i] for i, n in enumerate([*names[1:], "x9"])})
    with pytest.raises(InputError, match="x9"):
        model.fit([*pairs, (other, y)], epochs=1, verbose=0)


def test_values_and_one_hot_rows() -> None:
    X, y = examples()
    targets = np.random.default_rng(1).standard_normal((N, 3)).astype("float32")
    shares = np.eye(3)[y]
    for loss in ("softmax_cross_entropy", "sigmoid_cross_entropy", "mean_squared_error"):
        y = targets if loss == "mean_squared_error" else shares
        models = [network() for _ in range(2)]
        first = models[0].fit(X, y, batch_size=BATCH, epochs=2, order=in_turn, loss=loss, verbose=0)
        second = models[1].fit(cut(X, y), epochs=2, loss=loss, verbose=0)
        assert outcome(models[0], first) == outcome(models[1], second), loss


@pytest.mark.parametrize("limits", [(1, 2**26, 9.0), (3, 2**26, 9.0), (64, 1, 9.0), (64, 2**26, 0.0)])
def test_how_many_wait_changes_nothing(limits: tuple[int, int, float], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = on_arrays()
    for name, value in zip(("BLOCK", "BLOCK_BYTES", "BLOCK_SECONDS"), limits, strict=True):
        monkeypatch.setattr(batches, name, value)
    assert on_batches(cut(*examples())) == expected


# --- sizes, and one step at a time ----------------------------------------------------------------------------------

SIZES = [(16, 16, 16, 16, 3), (2, 30, 2, 31, 2), (67,), (2,) * 32 + (3,), (9, 9, 5, 5, 5, 9, 9, 9, 7)]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("weighted", [False, True])
def test_partial_fit_makes_the_same_steps(sizes: tuple[int, ...], weighted: bool) -> None:
    arrays = (*examples(), weights()) if weighted else examples()
    pairs = cut(*arrays, sizes=sizes)
    whole, single = network(), network()
    history = whole.fit(pairs, epochs=2, verbose=0, l2=1e-3)
    losses = []
    for _ in range(2):
        for pair in pairs:
            found = single.partial_fit(*pair[:2], sample_weight=pair[2] if weighted else None, l2=1e-3)
            losses.append(found["loss"] * (pair[2].astype("float32").sum() if weighted else len(pair[0])))
    assert outcome(single) == outcome(whole)
    total = weights().astype("float32").sum() if weighted else N
    for epoch in range(2):
        np.testing.assert_allclose(
            sum(losses[len(pairs) * epoch : len(pairs) * (epoch + 1)]) / total, history["loss"][epoch], rtol=1e-5
        )


def test_partial_fit_goes_on_with_what_it_was_given() -> None:
    X, y = examples()
    names = np.array(["ant", "bee", "cow"])
    whole, single = network(), network()
    optimizer = fastnn.SGD(0.1, momentum=0.9)
    whole.fit(cut(X, y), epochs=1, optimizer=optimizer, verbose=0)
    for index, (rows, labels) in enumerate(cut(X, names[y])):
        first = {"classes": names, "optimizer": optimizer} if not index else {}
        found = single.partial_fit(rows, labels, **first)
        assert set(found) == {"loss", "accuracy"}
    assert outcome(single) == outcome(whole)
    before = outcome(single)
    for rows, labels in ((X[:, :4], names[y]), (X, np.full(N, "dog")), (np.full_like(X, math.nan), names[y]), (X[:0], y[:0])):
        with pytest.raises(FastnnError):
            single.partial_fit(rows, labels)
        assert outcome(single) == before


def test_the_iterable_is_asked_once_an_epoch() -> None:
    asked = []

    def make() -> Iterator[Any]:
        asked.append(len(asked))
        yield from cut(*examples())

    on_batches(make)
    assert asked == [0, 1, 2]


def test_epochs_may_differ() -> None:
    """In their number of mini-batches too."""
    pairs = cut(*examples())
    lengths = iter([5, 2, 3])
    model = network()
    history = model.fit(lambda: pairs[: next(lengths)], epochs=3, verbose=0)
    assert (model.counters.step, model.counters.epoch, len(history["loss"])) == (10, 3, 3)
    single = network()
    for pair in [*pairs, *pairs[:2], *pairs[:3]]:
        single.partial_fit(*pair)
    assert outcome(single) == outcome(model)


def test_every_n_steps() -> None:
    seen = []

    class Seen(Callback):
        every = 3

        def step_end(self, run: Any) -> None:
            assert run.total_steps is None
            seen.append((run.step, run.model.counters.step))

    on_batches(cut(*examples()), callbacks=[Seen()])
    assert seen == [(3, 3), (6, 6), (9, 9), (12, 12), (15, 15)]


# --- schedules ------------------------------------------------------------------------------------------------------


def test_schedules_of_steps() -> None:
    optimizer = fastnn.SGD(schedules.Cosine(0.1, per="step"))
    assert on_batches(cut(*examples()), optimizer=optimizer, steps_per_epoch=PER_EPOCH) == on_arrays(optimizer=optimizer)
    assert on_batches(cut(*examples()), optimizer=optimizer, steps_per_epoch=9) != on_arrays(optimizer=optimizer)
    model = network()
    with pytest.raises(InputError, match="give steps_per_epoch"):
        model.fit(cut(*examples()), optimizer=optimizer, verbose=0)
    assert not model.built or model.counters.step == 0
    for bad in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="steps_per_epoch: expected an integer >= 1"):
            network().fit(cut(*examples()), steps_per_epoch=bad, verbose=0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="arrays are gone through whole"):
        network().fit(*examples(), steps_per_epoch=5, verbose=0)


# --- mini-batches that cannot be trained on -------------------------------------------------------------------------


def with_nan(X: np.ndarray, y: np.ndarray) -> Any:
    X = X.copy()
    X[1, 2] = math.nan
    return X, y


BAD = {
    "width": (lambda X, y: (X[:, :4], y), InputError, "4"),
    "nan": (with_nan, InputError, "NaN"),
    "empty": (lambda X, y: (X[:0], y[:0]), InputError, "at least one example"),
    "lengths": (lambda X, y: (X, y[:-1]), InputError, "y"),
    "label": (lambda X, y: (X, y + 3), InputError, "y"),
    "no pair": (lambda X, y: X, InputError, r"expected \(X, y\) or \(X, y, weights\), got ndarray"),
    "four": (lambda X, y: (X, y, y, y), InputError, r"expected \(X, y\) or \(X, y, weights\), got tuple"),
    "nothing": (lambda X, y: None, InputError, "got NoneType"),
    "one row": (lambda X, y: (X[:1], y[:1]), InputError, "batch norm"),
    "text": (lambda X, y: (X.astype(str), y), FastnnError, "X"),
    "weights": (lambda X, y: (X, y, -np.ones(len(y))), InputError, "weight"),
}


@pytest.mark.parametrize(("name", "at"), [(name, at) for name in BAD for at in (0, 37) if at or name not in ("width", "label")])
def test_a_bad_one(name: str, at: int) -> None:
    """The model is at its last whole step, which is the one before; with the first one nothing has changed."""
    spoil, kind, message = BAD[name]
    pair = cut(*examples())[0]
    pairs = [pair] * at + [spoil(*pair)] + [pair] * 9
    model = network()
    with pytest.raises(kind, match=f"(?s){message}") as caught:
        model.fit(pairs, epochs=1, verbose=0)
    assert f"mini-batch {at}: " in str(caught.value)
    if not at:
        assert not model.built
        return
    assert model.counters.step == 37
    expected = network()
    expected.fit([pair] * 37, epochs=1, verbose=0)
    assert outcome(model) == outcome(expected)
    model.fit(pairs[:5], epochs=1, verbose=0)


def test_an_iterable_that_fails() -> None:
    class Broken(Exception):
        pass

    error = Broken()

    def make() -> Iterator[Any]:
        yield from cut(*examples())[:4]
        raise error

    model = network()
    with pytest.raises(Broken) as caught:
        model.fit(make, epochs=2, verbose=0)
    assert caught.value is error
    expected = network()
    expected.fit(cut(*examples())[:4], epochs=1, verbose=0)
    assert outcome(model) == outcome(expected)


def test_no_mini_batches() -> None:
    for given in ([], lambda: [], iter([])):
        model = network()
        with pytest.raises(InputError, match="the iterable of mini-batches is empty"):
            model.fit(given, epochs=1, verbose=0)
        assert not model.built
    left = iter([cut(*examples()), []])
    model = network()
    with pytest.raises(InputError, match="empty in epoch 2"):
        model.fit(lambda: next(left), epochs=2, verbose=0)
    assert model.counters.step == PER_EPOCH


@pytest.mark.parametrize(
    ("given", "options", "kind", "message"),
    [
        (lambda: 3, {}, InputTypeError, "expected an iterable of mini-batches"),
        (examples()[0], {}, InputError, "y is missing"),
        (cut(*examples()), {"sample_weight": np.ones(N)}, InputError, "sample_weight: mini-batches come as they are"),
        (cut(*examples()), {"class_weight": "balanced"}, InputError, "class_weight"),
        (cut(*examples()), {"order": in_turn}, InputError, "order"),
        (cut(*examples()), {"shard_rows": 8}, InputError, "shard_rows"),
    ],
)
def test_what_mini_batches_do_not_go_with(given: Any, options: dict[str, Any], kind: type[Exception], message: str) -> None:
    model = network()
    with pytest.raises(kind, match=message):
        model.fit(given, verbose=0, **options)
    assert not model.built


def test_an_epoch_has_at_most_the_steps_that_were_given() -> None:
    def many() -> Any:
        for _ in range(20):
            yield from cut(*examples())

    model = network()
    history = model.fit(many, steps_per_epoch=PER_EPOCH, epochs=3, verbose=0)
    assert (model.counters.step, len(history["loss"])) == (3 * PER_EPOCH, 3)
