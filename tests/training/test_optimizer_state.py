"""`model.optimizer_state`: what the optimizer keeps, by slot and parameter, to be read and to be set."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from trainings import blobs, classifier, digest

import fastnn
from fastnn.callbacks import Callback
from fastnn.errors import FastnnError, NotReadyError
from fastnn_kernels.contract import UPDATES

OPTIONS: dict[str, Any] = {"epochs": 2, "batch_size": 50, "verbose": 0, "shuffle": False}
NAMES = ["0.weight", "0.bias", "1.weight", "1.bias"]


def trained(optimizer: Any = "adam", **options: Any) -> fastnn.Sequential:
    model = classifier()
    model.fit(*blobs(), optimizer=optimizer, **{**OPTIONS, **options})
    return model


def copy_of(state: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    return {slot: dict(values) for slot, values in state.items()}


@pytest.mark.parametrize(
    "optimizer", ["sgd", "momentum", "rmsprop", "adagrad", "adam", "adamw", "nadam", "lion", fastnn.SGD(0.1, momentum=0.9)]
)
def test_its_names_are_those_of_slots_and_parameters(optimizer: Any) -> None:
    model = trained(optimizer)
    state = model.optimizer_state
    assert state is not None
    assert model.optimizer is not None
    assert tuple(state) == UPDATES[model.optimizer.kernel].slots
    assert len(state) == len(list(state.items()))
    for values in state.values():
        assert {name: array.shape for name, array in values.items()} == {name: model.weights[name].shape for name in values}
        assert sorted(values) == sorted(NAMES)
        assert all(array.any() for array in values.values())


def test_it_holds_the_numbers_of_the_flat_arrays_and_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    X, y = blobs(dtype="float64")
    model = classifier(dtype="float64").build(X.shape[1])
    layers = [torch.nn.Parameter(torch.tensor(model.weights[name])) for name in NAMES]
    optimizer = torch.optim.Adam(layers, lr=0.01)
    for start in range(0, len(X), 50):
        rows = slice(start, start + 50)
        hidden = torch.relu(torch.tensor(X[rows]) @ layers[0] + layers[1])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(hidden @ layers[2] + layers[3], torch.tensor(y[rows])).backward()
        optimizer.step()
    model.fit(X, y, optimizer=fastnn.Adam(0.01), **{**OPTIONS, "epochs": 1})
    state = model.optimizer_state
    assert state is not None
    for slot, theirs in {"mean": "exp_avg", "square": "exp_avg_sq"}.items():
        assert sum(array.size for array in state[slot].values()) == state.slots[slot].size
        for name, parameter in zip(NAMES, layers, strict=True):
            np.testing.assert_allclose(state[slot][name], optimizer.state[parameter][theirs].numpy(), rtol=1e-9, atol=1e-15)


def test_what_is_read_is_a_copy() -> None:
    model = trained()
    before = digest(model)
    state = model.optimizer_state
    assert state is not None
    state["mean"]["0.weight"][...] = 7
    assert digest(model) == before
    with pytest.raises(TypeError):
        state["mean"] = {}  # type: ignore[index]
    with pytest.raises(KeyError):
        state["velocity"]
    assert "velocity" not in state


def test_there_is_none_before_a_fit_and_an_empty_one_of_sgd() -> None:
    assert classifier().optimizer_state is None
    assert classifier().build(5).optimizer_state is None
    state = trained(fastnn.SGD(0.1)).optimizer_state
    assert state, "there is one"
    assert (dict(state), state.updates) == ({}, 12)


def test_it_is_the_same_after_a_pickle() -> None:
    model = trained()
    again = pickle.loads(pickle.dumps(model))
    assert model.optimizer_state is not None
    for slot, values in model.optimizer_state.items():
        for name, array in values.items():
            np.testing.assert_array_equal(again.optimizer_state[slot][name], array)


@pytest.mark.parametrize("optimizer", ["momentum", "adam", "lion", "adagrad"])
def test_a_model_with_the_state_of_another_goes_on_like_it(optimizer: str) -> None:
    """With the weights, the number of updates and the count of epochs, it is that model."""
    model, other = trained(optimizer), trained(optimizer, epochs=0)
    state = model.optimizer_state
    assert state is not None
    other.set_weights(model.weights)
    other.set_optimizer_state(copy_of(state), updates=state.updates)
    for each in (model, other):
        each.fit(*blobs(), optimizer=optimizer, **OPTIONS)
    assert digest(model) == digest(other)
    assert model.optimizer_state is not None
    assert other.optimizer_state is not None
    assert model.optimizer_state.updates == other.optimizer_state.updates


def test_some_of_it_may_be_set() -> None:
    model = trained()
    before = copy_of(model.optimizer_state or {})
    value = np.full((3,), 0.5, "float32")
    model.set_optimizer_state({"square": {"1.bias": value}})
    after = copy_of(model.optimizer_state or {})
    np.testing.assert_array_equal(after["square"].pop("1.bias"), value)
    before["square"].pop("1.bias")
    for slot, values in before.items():
        for name, array in values.items():
            np.testing.assert_array_equal(after[slot][name], array)


def test_a_callback_may_set_it() -> None:
    class Forget(Callback):
        def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
            state = run.model.optimizer_state
            run.model.set_optimizer_state({slot: {n: 0 * a for n, a in of.items()} for slot, of in state.items()}, updates=0)

    model, other = trained(callbacks=[Forget()]), trained(epochs=1)
    fresh = classifier().build(5)
    fresh.set_weights(other.weights)
    for each in (fresh, other):
        each.fit(*blobs(), optimizer="adam", **{**OPTIONS, "epochs": 1})
    assert all((model.weights[name] == fresh.weights[name]).all() for name in NAMES)
    assert any((model.weights[name] != other.weights[name]).any() for name in NAMES)


@pytest.mark.parametrize(
    ("state", "updates", "says"),
    [
        ({"velocity": {}}, None, "Adam keeps no 'velocity'; known are 'mean', 'square'"),
        ({"mean": {"0.wieght": np.zeros((5, 16), "float32")}}, None, "the model has no '0.wieght'; did you mean '0.weight'"),
        ({"mean": {"0.bias": np.zeros(5, "float32")}}, None, r"0.bias: expected shape \(16,\), got \(5,\)"),
        ({"mean": {"0.bias": np.zeros(16)}}, None, r"0.bias: expected float32, got float64; convert it"),
        ({"mean": {"0.bias": np.full(16, np.nan, "float32")}}, None, "0.bias: 16 values are NaN or infinite"),
        ({"square": {"0.bias": np.full(16, -1, "float32")}}, None, "0.bias: means of squares are at least 0, got -1"),
        ({"mean": np.zeros(3)}, None, "expected a dict such as"),
        ([], None, "expected a dict such as"),
        ({}, -1, "updates: expected an integer >= 0, got -1"),
        ({}, True, "updates: expected an integer >= 0, got True"),
    ],
)
def test_what_does_not_fit_changes_nothing(state: Any, updates: Any, says: str) -> None:
    model = trained()
    before = digest(model)
    if isinstance(state, dict) and "square" not in state:
        state = {"square": {"1.bias": np.ones(3, "float32")}, **state}
    with pytest.raises(FastnnError, match=says):
        model.set_optimizer_state(state, updates=updates)
    assert digest(model) == before


def test_before_a_fit_there_is_nothing_to_set() -> None:
    with pytest.raises(NotReadyError, match="the model has no optimizer yet"):
        classifier().build(5).set_optimizer_state({})


def test_what_was_kept_can_be_set_back() -> None:
    """It is a snapshot: trainings after it do not reach it."""
    X, y = blobs()
    model = trained()
    weights, state, counts = model.weights, model.optimizer_state, model.counters.step
    assert state is not None
    updates = state.updates
    first = model.fit(X, y, optimizer="adam", **OPTIONS)["loss"]
    assert state.updates == updates < counts + 1
    model.set_weights(weights)
    model.set_optimizer_state(state, updates=updates)
    assert model.fit(X, y, optimizer="adam", **OPTIONS)["loss"] == first


@pytest.mark.parametrize("updates", [2**62 + 1, 2**63, 2**70])
def test_more_updates_than_a_file_holds_are_refused(updates: int) -> None:
    with pytest.raises(FastnnError, match=r"updates: expected at most 4611686018427387904, got"):
        trained().set_optimizer_state({}, updates=updates)
