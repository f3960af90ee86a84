"""`ema` of the optimizers: the moving average of the parameters, kept by the update kernels, and `Sequential.averaged`."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainings import blobs, classifier, digest
from trajectories import OPTIMIZERS

import fastnn
from fastnn import ops
from fastnn.callbacks import Callback, Checkpoint, EarlyStopping
from fastnn.errors import DivergenceError, NotReadyError
from fastnn.optimizers import Adam
from fastnn_kernels.contract import AVERAGE

OPTIONS: dict[str, Any] = {"epochs": 2, "batch_size": 50, "verbose": 0, "device": "cpu"}
EMA = 0.9


def trained(optimizer: Any = None, model: fastnn.Sequential | None = None, **options: Any) -> fastnn.Sequential:
    model = classifier() if model is None else model
    X, y = blobs(dtype=model.dtype.name)
    model.fit(X, y, optimizer=Adam(ema=EMA) if optimizer is None else optimizer, **{**OPTIONS, **options})
    return model


def average_of(model: fastnn.Sequential) -> dict[str, np.ndarray]:
    state = model.optimizer_state
    assert state is not None
    return state[AVERAGE]


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


class Average(Callback):
    """The average in NumPy, of what each step leaves."""

    every = 1

    def __init__(self, start: dict[str, np.ndarray], ema: float = EMA) -> None:
        self.average, self.ema = start, ema

    def step_end(self, run: Any) -> None:
        for name, w in run.model.weights.items():
            a = self.average[name]
            self.average[name] = a + w.dtype.type(1 - self.ema) * (w - a)


def normed() -> fastnn.Sequential:
    layers = [fastnn.Dense(9), fastnn.BatchNorm(), fastnn.Activation("relu"), fastnn.Dropout(0.2), fastnn.Dense(3)]
    return fastnn.Sequential(layers, seed=1)


# --- what it is -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_is_the_average_of_what_each_step_leaves_and_changes_no_step(optimizer: str, dtype: str) -> None:
    plain = OPTIMIZERS[optimizer]
    callback = Average(classifier(dtype=dtype).build(5).weights)
    model = trained(dataclasses.replace(plain, ema=EMA), classifier(dtype=dtype), callbacks=[callback])
    assert same(average_of(model), callback.average)
    assert same(model.weights, trained(plain, classifier(dtype=dtype)).weights)
    assert not same(model.weights, average_of(model))


@pytest.mark.parametrize(("name", "ema"), [("Adam", 0.3), ("SGD", 0.9), ("Adam", 0.999)])
def test_fifty_steps_are_those_of_pytorch(name: str, ema: float) -> None:
    torch = pytest.importorskip("torch")
    X, y = blobs(dtype="float64")
    model = classifier(dtype="float64").build(5)
    linear = [torch.nn.Linear(5, 16, dtype=torch.float64), torch.nn.Linear(16, 3, dtype=torch.float64)]
    for index, layer in enumerate(linear):
        layer.weight.data = torch.from_numpy(model.weights[f"{index}.weight"].T.copy())
        layer.bias.data = torch.from_numpy(model.weights[f"{index}.bias"])
    theirs = torch.nn.Sequential(linear[0], torch.nn.ReLU(), linear[1])
    average = torch.optim.swa_utils.AveragedModel(theirs, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(ema))
    average.update_parameters(theirs)  # the first call copies: the average starts from the initial parameters
    optimizer = getattr(torch.optim, name)(theirs.parameters(), lr=0.01)
    for step in range(50):
        rows = slice(30 * (step % 10), 30 * (step % 10) + 30)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(theirs(torch.from_numpy(X[rows])), torch.from_numpy(y[rows])).backward()
        optimizer.step()
        average.update_parameters(theirs)
    model.fit(
        X, y, optimizer=getattr(fastnn, name)(0.01, ema=ema), batch_size=30, epochs=5, shuffle=False, device="cpu", verbose=0
    )
    for index, layer in ((0, average.module[0]), (1, average.module[2])):
        for attribute, value in (("weight", layer.weight.detach().numpy().T), ("bias", layer.bias.detach().numpy())):
            np.testing.assert_allclose(average_of(model)[f"{index}.{attribute}"], value, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_it_does_not_depend_on_threads_and_chunks(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = digest(trained(device=device, threads=1))
    monkeypatch.setattr(fastnn.training.chunks, "LOG_ROWS", 5)
    assert digest(trained(device=device, threads=2)) == expected


@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_of_frozen_parameters_it_is_those(device: str) -> None:
    """Frozen from the beginning, or after some steps."""
    model = trained(model=classifier().build(5).freeze(0), device=device)
    assert all(same({n: average_of(model)[n]}, {n: model.weights[n]}) for n in ("0.weight", "0.bias"))
    trained(model=model.unfreeze(), device=device)
    assert not any(same({n: average_of(model)[n]}, {n: model.weights[n]}) for n in ("0.weight", "1.weight"))
    trained(model=model.freeze(0), device=device)
    assert all(same({n: average_of(model)[n]}, {n: model.weights[n]}) for n in ("0.weight", "0.bias"))


# --- the averaged model ---------------------------------------------------------------------------------------------------


def test_the_averaged_model_has_the_averages_and_the_statistics_of_the_model() -> None:
    model = trained(model=normed())
    before = digest(model)
    averaged = model.averaged()
    statistics = {place.name for place in model.network.statistics}
    assert len(statistics) == 2
    expected = {**model.weights, **average_of(model)}
    assert same(averaged.weights, expected)
    assert same({n: averaged.weights[n] for n in statistics}, {n: model.weights[n] for n in statistics})
    assert digest(model) == before, "the model itself stays"
    X, y = blobs()
    twin = normed().build(5, loss="softmax_cross_entropy")
    twin.set_weights(expected)
    np.testing.assert_array_equal(averaged.predict_proba(X), twin.predict_proba(X))
    assert averaged.evaluate(X, y) == twin.evaluate(X, y)
    assert averaged.evaluate(X, y)["loss"] != model.evaluate(X, y)["loss"]


def test_the_averaged_model_is_a_model_of_its_own() -> None:
    """It shares nothing with the model, begins with a fresh optimizer, and its file holds the averages."""
    model = trained()
    averaged, before = model.averaged(), digest(model)
    assert averaged.optimizer_state is None
    assert (averaged.counters, averaged.task) == (model.counters, model.task)
    with pytest.raises(NotReadyError, match="there is no average"):
        averaged.averaged()
    trained(Adam(ema=EMA), averaged)
    assert digest(model) == before
    assert averaged.optimizer_state is not None
    assert averaged.optimizer_state.updates == 12


def test_the_file_of_the_averaged_model_holds_the_averages(tmp_path: Path) -> None:
    model = trained(model=normed())
    model.averaged().save(tmp_path / "averaged.safetensors", optimizer=True)
    loaded = fastnn.load(tmp_path / "averaged.safetensors")
    assert same(loaded.weights, model.averaged().weights)
    np.testing.assert_array_equal(loaded.predict(blobs()[0]), model.averaged().predict(blobs()[0]))


def test_it_keeps_a_loss_of_ones_own() -> None:
    def cost(outputs: Any, targets: Any) -> Any:
        return ops.sum((outputs - targets) * (outputs - targets), 1)

    X, _ = blobs()
    model = classifier(1)
    model.fit(X, X[:, :1], loss=cost, optimizer=fastnn.SGD(0.01, ema=0.5), **OPTIONS)
    assert model.averaged().evaluate(X, X[:, :1])["loss"] > 0


@pytest.mark.parametrize("situation", ["not built", "built", "trained without", "trained without afterwards"])
def test_without_an_average_it_is_refused(situation: str) -> None:
    model = classifier()
    if situation == "built":
        model.build(5)
    if situation == "trained without":
        trained(Adam(), model)
    if situation == "trained without afterwards":
        trained(Adam(ema=EMA), model)
        with pytest.warns(UserWarning, match="Adam has no ema now; the average of the parameters is dropped"):
            trained(Adam(), model)
    with pytest.raises(NotReadyError, match=r"there is no average of the parameters; train with ema, as in .*ema=0.999"):
        model.averaged()


def test_a_callback_may_ask_for_it() -> None:
    class Watch(Callback):
        losses: list[float]

        def begin(self, run: Any) -> None:
            self.losses = []

        def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
            self.losses.append(run.model.averaged().evaluate(*blobs())["loss"])

    watch = Watch()
    model = trained(epochs=4, callbacks=[watch])
    assert watch.losses == sorted(watch.losses, reverse=True)
    assert watch.losses[-1] == model.averaged().evaluate(*blobs())["loss"]
    assert digest(model) == digest(trained(epochs=4))


# --- from call to call ----------------------------------------------------------------------------------------------------


def test_two_calls_are_one_long_one() -> None:
    model = trained(epochs=1)
    assert digest(trained(model=model, epochs=1)) == digest(trained(epochs=2))


def test_steps_of_partial_fit_average_too() -> None:
    X, y = blobs()
    model, average = classifier().build(5), classifier().build(5).weights
    for _ in range(3):
        model.partial_fit(X, y, optimizer=Adam(0.01, ema=EMA), device="cpu")
        average = {n: a + np.float32(1 - EMA) * (model.weights[n] - a) for n, a in average.items()}
    assert same(average_of(model), average)


def test_another_ema_continues_the_average() -> None:
    model = trained()
    callback = Average(average_of(model), 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(Adam(ema=0.5), model, callbacks=[callback])
    assert same(average_of(model), callback.average)


@pytest.mark.parametrize("first", [Adam(), fastnn.SGD(0.1, ema=EMA), fastnn.SGD(0.1)])
def test_a_new_average_starts_from_the_parameters_as_they_are(first: Any) -> None:
    """Of an optimizer that kept none, and of another class."""
    model = trained(first)
    callback = Average(model.weights)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trained(Adam(ema=EMA), model, callbacks=[callback])
    notice = "the optimizer state of SGD cannot be used by Adam; starting from a fresh state"
    assert [str(each.message) for each in caught] == ([] if isinstance(first, Adam) else [notice])
    assert same(average_of(model), callback.average)


def test_an_average_that_was_switched_off_starts_anew() -> None:
    model = trained()
    with pytest.warns(UserWarning, match="the average of the parameters is dropped"):
        trained(Adam(), model)
    callback = Average(model.weights)
    trained(Adam(ema=EMA), model, callbacks=[callback])
    assert same(average_of(model), callback.average)


def test_it_starts_from_the_weights_that_were_set_before_the_first_step() -> None:
    """Also where the optimizer's state was made before that."""
    model, weights = trained(epochs=0), classifier(seed=5).build(5).weights
    model.set_weights(weights)
    callback = Average(weights)
    trained(model=model, callbacks=[callback])
    assert same(average_of(model), callback.average)


def test_an_average_of_no_step_is_dropped_without_a_notice() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = trained(Adam(), trained(epochs=0))
    assert set(model.optimizer_state or ()) == {"mean", "square"}
    assert digest(model) == digest(trained(Adam()))


def test_a_call_that_fails_leaves_model_and_average_as_they_were() -> None:
    model = trained()
    before = digest(model)
    with pytest.raises(fastnn.errors.InputError):
        model.fit(*blobs(classes=4), optimizer=Adam(), **OPTIONS)
    assert digest(model) == before
    assert digest(trained(model=model)) == digest(trained(epochs=4))


def test_a_model_with_the_state_of_another_goes_on_like_it() -> None:
    model, other = trained(), trained(epochs=0)
    state = model.optimizer_state
    assert state is not None
    other.set_weights(model.weights)
    other.set_optimizer_state(copy.deepcopy(dict(state)), updates=state.updates)
    for each in (model, other):
        trained(model=each, shuffle=False)
    assert digest(model) == digest(other)


# --- kept, and undone -----------------------------------------------------------------------------------------------------


def test_a_file_with_the_optimizer_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    model = trained(epochs=1)
    model.save(tmp_path / "model.safetensors", optimizer=True)
    loaded = fastnn.load(tmp_path / "model.safetensors")
    assert loaded.optimizer == Adam(ema=EMA)
    assert same(loaded.averaged().weights, model.averaged().weights)
    for each in (pickle.loads(pickle.dumps(model)), copy.copy(model), loaded):
        assert digest(trained(model=each, epochs=1)) == digest(trained(epochs=2))


def test_a_checkpoint_without_an_average_is_resumed_with_one(tmp_path: Path) -> None:
    callback = Average(trained(Adam(), epochs=1, callbacks=[Checkpoint(tmp_path)]).weights)
    with pytest.warns(UserWarning, match=r"continues with ema 0.9 \(it was None\)"):
        model = trained(Adam(ema=EMA), classifier(), resume=tmp_path, callbacks=[callback])
    assert same(average_of(model), callback.average)
    assert model.counters.epoch == 2


def test_early_stopping_puts_the_average_of_the_best_epoch_back() -> None:
    X, y = blobs()
    stopping = EarlyStopping("val_loss", patience=0)
    model = trained(Adam(0.3, ema=EMA), epochs=20, validation_data=(X[:50], y[:50]), callbacks=[stopping])
    assert stopping.stopped
    assert digest(model) == digest(trained(Adam(0.3, ema=EMA), epochs=stopping.best_epoch + 1))


def test_a_divergence_leaves_the_average_of_the_last_finite_step() -> None:
    X, _ = blobs()
    model = classifier(1)
    options = {**OPTIONS, "loss": "quadratic", "shuffle": False, "optimizer": fastnn.SGD(10.0, ema=EMA)}
    with pytest.raises(DivergenceError):
        model.fit(X, 1e3 * X[:, :1], **{**options, "epochs": 50})
    steps = model.counters.step
    assert 0 < steps < 300
    callback, twin = Average(classifier(1).build(5).weights), classifier(1)
    del options["shuffle"]
    options |= {"epochs": 1, "callbacks": [callback], "order": lambda epoch: np.resize(np.arange(300), 50 * steps)}
    twin.fit(X, 1e3 * X[:, :1], **options)
    assert twin.counters.step == steps
    assert same(average_of(model), callback.average)
    assert all(np.isfinite(a).all() for a in model.averaged().weights.values())


def test_an_interrupted_run_has_the_average_of_its_last_step() -> None:
    class Stop(Callback):
        every = 5

        def step_end(self, run: Any) -> None:
            raise KeyboardInterrupt

    model, callback = classifier(), Average(classifier().build(5).weights)
    with pytest.raises(KeyboardInterrupt):
        trained(model=model, callbacks=[callback, Stop()])
    assert model.counters.step == 5
    assert same(average_of(model), callback.average)


def test_mini_batches_of_an_iterable() -> None:
    X, y = blobs()
    batches = [(X[i : i + 50], y[i : i + 50]) for i in range(0, 300, 50)]
    model, callback = classifier(), Average(classifier().build(5).weights)
    model.fit(batches, optimizer=Adam(ema=EMA), epochs=2, device="cpu", verbose=0, callbacks=[callback])
    assert same(average_of(model), callback.average)
    assert digest(model) == digest(trained(shuffle=False))
