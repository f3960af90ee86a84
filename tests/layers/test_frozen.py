"""Frozen layers: kept bit for bit, not differentiated, saved; what is left is trained as PyTorch trains it."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fastnn
from fastnn import errors, ops
from fastnn.callbacks import Callback, Checkpoint
from fastnn.optimizers import NAMES, by_name
from fastnn.storage import archives

if TYPE_CHECKING:
    from cuda_on_host.runtime import HostRuntime

N, FEATURES, CLASSES, BATCH = 40, 6, 3, 8
OPTIMIZERS = {
    **{name: by_name(name, learning_rate=0.01) for name in NAMES},
    "classical momentum": fastnn.SGD(0.05, momentum=0.9),
    "adamw, clipped": fastnn.AdamW(0.01, weight_decay=0.1, clip_norm=0.5, clip_value=0.3),
    "lion, decayed": fastnn.Lion(0.001, weight_decay=0.1),
}


def examples(dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    y = rng.integers(0, CLASSES, N)
    return (rng.standard_normal((CLASSES, FEATURES))[y] + rng.standard_normal((N, FEATURES))).astype(dtype), y


def network(dtype: str = "float32", norm: bool = False, **first: Any) -> fastnn.Sequential:
    """Dense layers 0, 2 and 4, or with batch norm 0, 3 and 5."""
    hidden = [fastnn.Dense(9, **first), *([fastnn.BatchNorm()] if norm else []), fastnn.Activation("tanh")]
    layers = [*hidden, fastnn.Dense(7, activation="tanh"), fastnn.Dropout(0.2), fastnn.Dense(CLASSES)]
    return fastnn.Sequential(layers, seed=3, dtype=dtype).build(FEATURES)


def trained(model: fastnn.Sequential, **options: Any) -> fastnn.Sequential:
    X, y = examples(model.dtype.name)
    model.fit(X, y, **{"batch_size": BATCH, "epochs": 1, "verbose": 0, "device": "cpu", **options})
    return model


def changed(before: dict[str, np.ndarray], model: fastnn.Sequential) -> set[str]:
    return {name for name, value in model.weights.items() if value.tobytes() != before[name].tobytes()}


@pytest.mark.parametrize("device", ["cpu", "numpy"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_100_steps_keep_every_bit(optimizer: str, device: str) -> None:
    """Of the frozen parameters and of what the optimizer keeps of them; everything else moves."""
    model = trained(network(norm=True), optimizer=OPTIMIZERS[optimizer], l2=1e-2, device=device)  # the states are not 0
    state = model.state.optimizer
    assert state is not None
    before, slots = model.weights, copy.deepcopy(state.slots)
    trained(model.freeze(0, 1, 3), optimizer=OPTIMIZERS[optimizer], l2=1e-2, l1=1e-3, epochs=20, device=device)
    assert state.updates == 105
    assert changed(before, model) == {"5.weight", "5.bias"}
    for place in model.network.parameters:
        for name, slot in slots.items():
            part = slice(place.start, place.start + place.size)
            assert (slot[part].tobytes() == state.slots[name][part].tobytes()) == (place.layer != 5), (place.name, name)


@pytest.mark.parametrize("frozen", [(0,), (2,), (4,), (0, 2)])
def test_the_others_are_trained_as_pytorch_does(frozen: tuple[int, ...]) -> None:
    """requires_grad=False; the norm that is limited is that of the others."""
    torch = pytest.importorskip("torch")
    model = fastnn.Sequential(
        [*network().layers[:3], fastnn.Activation("identity"), fastnn.Dense(CLASSES)], seed=3, dtype="float64"
    )
    model.build(FEATURES)
    linear = {index: torch.nn.Linear(*model.weights[f"{index}.weight"].shape, dtype=torch.float64) for index in (0, 2, 4)}
    for index, layer in linear.items():
        layer.weight.data = torch.from_numpy(model.weights[f"{index}.weight"].T.copy())
        layer.bias.data = torch.from_numpy(model.weights[f"{index}.bias"])
        layer.requires_grad_(index not in frozen)
    theirs = torch.nn.Sequential(linear[0], torch.nn.Tanh(), linear[2], torch.nn.Tanh(), linear[4])
    left = [p for p in theirs.parameters() if p.requires_grad]
    groups = [{"params": [p for p in left if p.ndim == 2], "weight_decay": 0.1}, {"params": [p for p in left if p.ndim == 1]}]
    optimizer = torch.optim.AdamW(groups, 0.05, weight_decay=0.0)
    X, y = examples("float64")
    for _ in range(3):
        for first in range(0, N, BATCH):
            rows = slice(first, first + BATCH)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(theirs(torch.from_numpy(X[rows])), torch.from_numpy(y[rows])).backward()
            torch.nn.utils.clip_grad_norm_(left, 0.3)
            optimizer.step()
    ours = fastnn.AdamW(0.05, weight_decay=0.1, clip_norm=0.3)
    trained(model.freeze(*frozen), optimizer=ours, epochs=3, order=lambda epoch: np.arange(N))
    for index, layer in linear.items():
        np.testing.assert_allclose(model.weights[f"{index}.weight"], layer.weight.detach().numpy().T, atol=1e-5)
        np.testing.assert_allclose(model.weights[f"{index}.bias"], layer.bias.detach().numpy(), atol=1e-5)


def test_clipping_by_norm_does_not_see_gradients_from_before() -> None:
    """The arena of gradients holds nothing of an earlier call in the places of the frozen ones."""
    model, fresh = trained(network("float64"), optimizer=fastnn.SGD(1.0)), network("float64")
    fresh.set_weights(model.weights)
    fresh.state.counters = copy.copy(model.counters)
    for each in (model, fresh):
        trained(each.freeze(0, 2), optimizer=fastnn.SGD(1.0, clip_norm=0.01))
    assert changed(fresh.weights, model) == set()


def test_freezing_and_unfreezing_between_calls() -> None:
    """Each call trains just what is not frozen then."""
    model = network()
    for frozen, moved in (
        ((), {0, 2, 4}), ((0,), {2, 4}), ((0, 2), {4}), ((-1,), {0, 2}), ((), {0, 2, 4}),
    ):  # fmt: skip
        before = model.weights
        trained(model.unfreeze().freeze(*frozen) if frozen else model.unfreeze())
        assert changed(before, model) == {f"{i}.{name}" for i in moved for name in ("weight", "bias")}
    assert model.freeze().network.frozen == (0, 2, 4)
    assert model.unfreeze(2, 4).network.frozen == (0,)


def test_a_layer_of_a_model_is_frozen_by_its_attribute_too() -> None:
    """As in Keras: `trainable` is the one thing about a layer that may change."""
    model = trained(network())
    model.layers[0].trainable = False
    before = model.weights
    assert changed(before, trained(model)) == {"2.weight", "2.bias", "4.weight", "4.bias"}
    with pytest.raises(errors.InputError, match="units: the options of a layer do not change"):
        model.layers[0].units = 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("fused", [True, False])
def test_what_is_frozen_is_not_differentiated(fused: bool) -> None:
    model = network(norm=True)

    def calls() -> list[str]:
        return [line for line in str(model.program(BATCH, fused=fused, device="cpu")).splitlines() if "backward" in line]

    assert any("batch_norm" in line for line in calls())
    model.freeze(0, 1)
    assert not any("batch_norm" in line for line in calls())
    text = str(model.program(BATCH, fused=fused, device="cpu"))
    assert "d 3.weight" in text
    assert "d 0.weight" not in text
    assert "d 1.gamma" not in text
    assert "running_mean" in text
    assert "trainable=False" in text
    model.unfreeze().freeze(3)
    text = str(model.program(BATCH, fused=fused, device="cpu"))
    assert "d 3.weight" not in text
    assert {"d 0.weight", "d 1.gamma", "d 5.weight"} <= {f"d {name}" for name in model.weights if f"d {name}" in text}


def test_the_last_layer_alone_costs_one_product_backwards() -> None:
    model = network().freeze(0, 2)
    backward = [call.kernel for call in model.program(BATCH, device="cpu").program.calls if "backward" in call.kernel]
    assert backward == ["dense_backward_weight"]


def test_frozen_batch_norm_is_that_of_pytorch_in_eval_mode() -> None:
    torch = pytest.importorskip("torch")
    X, y = examples("float64")
    layers = [fastnn.Dense(5, activation="tanh"), fastnn.BatchNorm(), fastnn.Dense(CLASSES)]
    model = fastnn.Sequential(layers, seed=1, dtype="float64").build(FEATURES)
    rng = np.random.default_rng(0)
    norm = {name: rng.uniform(0.5, 2.0, 5) for name in ("gamma", "beta", "running_mean", "running_variance")}
    model.set_weights({f"1.{name}": value for name, value in norm.items()})
    w = model.weights
    theirs = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, 5), torch.nn.Tanh(), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, CLASSES)
    ).double()
    for index, name in ((0, "0"), (3, "2")):
        theirs[index].weight.data = torch.from_numpy(w[f"{name}.weight"].T.copy())
        theirs[index].bias.data = torch.from_numpy(w[f"{name}.bias"])
    tensors = {name: torch.from_numpy(value.copy()) for name, value in norm.items()}
    theirs[2].weight.data, theirs[2].bias.data = tensors["gamma"], tensors["beta"]
    theirs[2].running_mean, theirs[2].running_var = tensors["running_mean"], tensors["running_variance"]
    theirs[2].requires_grad_(False).eval()
    optimizer = torch.optim.SGD([p for p in theirs.parameters() if p.requires_grad], 0.1)
    for x, t in zip(X, y, strict=True):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(theirs(torch.from_numpy(x[None])), torch.from_numpy(t[None])).backward()
        optimizer.step()
    trained(model.freeze(1), optimizer=fastnn.SGD(0.1), batch_size=1, order=lambda epoch: np.arange(N))  # one row is enough
    for index, name in ((0, "0"), (3, "2")):
        np.testing.assert_allclose(model.weights[f"{name}.weight"], theirs[index].weight.detach().numpy().T, atol=1e-12)
    assert changed(w, model) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    with pytest.raises(errors.InputError, match="batch norm cannot be trained"):
        trained(model.unfreeze(), batch_size=1)


def test_freezing_changes_no_parameters_of_a_model() -> None:
    """Beta stands for the bias of the layer in front, frozen or not; use_bias=True brings one, which is trained then."""
    names = ["0.weight", "1.gamma", "1.beta", "1.running_mean", "1.running_variance", "2.weight", "2.bias"]
    made = [[fastnn.Dense(4), fastnn.BatchNorm(trainable=trainable), fastnn.Dense(CLASSES)] for trainable in (True, False)]
    free, frozen = (fastnn.Sequential(layers, seed=0).build(FEATURES) for layers in made)
    assert list(free.weights) == list(frozen.weights) == list(free.freeze(1).weights) == names
    frozen.set_weights(trained(free.unfreeze()).weights)
    before = frozen.weights
    assert changed(before, trained(frozen)) == {"0.weight", "2.weight", "2.bias"}
    layers = [fastnn.Dense(4, use_bias=True), fastnn.BatchNorm(trainable=False), fastnn.Dense(CLASSES)]
    shifted = fastnn.Sequential(layers, seed=0).build(FEATURES)
    before = shifted.weights
    assert changed(before, trained(shifted)) == {"0.weight", "0.bias", "2.weight", "2.bias"}


class Scaled(fastnn.Layer):
    """x * scale, and a count of the rows seen in training that continues while the layer is frozen."""

    options = ("start",)

    def __init__(self, start: float = 1.0) -> None:
        self.start = start

    def parameters(self, shape: tuple[int, ...]) -> dict[str, fastnn.Parameter]:
        return {"scale": fastnn.Parameter(shape, fastnn.initializers.Constant(self.start), learning_rate_factor=2.0)}

    def forward(self, x: Any, training: bool) -> Any:
        return ops.multiply(x, self.scale)


def test_a_layer_of_ones_own(tmp_path: Path) -> None:
    model = fastnn.Sequential([Scaled(1.5), fastnn.Dense(CLASSES)], seed=0).build(FEATURES).freeze(0)
    assert repr(model.layers[0]) == "Scaled(start=1.5, trainable=False)"
    before = model.weights
    trained(model)
    assert changed(before, model) == {"1.weight", "1.bias"}
    model.save(tmp_path / "m.safetensors")
    again = fastnn.load(tmp_path / "m.safetensors", {"Scaled": Scaled})
    assert again.network.frozen == (0,)
    assert changed(again.weights, trained(again.unfreeze())) == set(before)
    assert changed(again.weights, again) == set()


class Louder(fastnn.Layer):
    """2 x in training, but x while it is frozen; it might have parameters."""

    def parameters(self, shape: tuple[int, ...]) -> dict[str, fastnn.Parameter]:
        return {}

    def forward(self, x: Any, training: bool) -> Any:
        return ops.multiply(x, 2.0) if training and self.trainable else x


def test_a_layer_of_ones_own_without_parameters() -> None:
    """The step that was recorded before it was frozen is not played again."""
    model = trained(fastnn.Sequential([Louder(), fastnn.Dense(CLASSES)], seed=0))
    other = pickle.loads(pickle.dumps(model))
    assert changed(trained(model.freeze(0)).weights, trained(other.freeze(0))) == set()


def test_frozen_layers_are_saved_and_shown(tmp_path: Path) -> None:
    layers = [fastnn.Dense(4, trainable=False, l2=0.1, l1=0.0, learning_rate_factor=0.5), fastnn.BatchNorm(trainable=False)]
    model = fastnn.Sequential([*layers, fastnn.Dense(CLASSES)], seed=0).build(FEATURES)
    assert repr(layers[0]) == "Dense(4, l2=0.1, l1=0.0, learning_rate_factor=0.5, trainable=False)"
    assert repr(layers[1]) == "BatchNorm(trainable=False)"
    assert "trainable=False" in repr(model)
    path = tmp_path / "m.safetensors"
    model.save(path)
    for again in (fastnn.load(path), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert again.network.frozen == (0, 1)
        assert repr(again) == repr(model)
    model.unfreeze().save(path)
    assert fastnn.load(path).network.frozen == ()


def test_files_from_before_there_were_such_options(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model = trained(network(norm=True))
    model.save(path, optimizer=True)
    manifest, tensors = archives.read(path)
    for layer in manifest["layers"]:
        for name in ("l2", "l1", "learning_rate_factor", "trainable"):
            layer.pop(name, None)
    archives.write(path, manifest, tensors)
    again = fastnn.load(path)
    assert again.network.frozen == ()
    assert repr(again) == repr(model)
    assert changed(trained(model).weights, trained(again)) == set()


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_files_that_say_something_else(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "m.safetensors"
    network().save(path)
    manifest, tensors = archives.read(path)
    manifest["layers"][0]["trainable"] = value
    archives.write(path, manifest, tensors)
    with pytest.raises(errors.FormatError, match="trainable"):
        fastnn.load(path)


def test_a_loaded_model_gets_a_new_head(tmp_path: Path) -> None:
    """The layers below are those of the file, with their values, and stay so."""
    path = tmp_path / "m.safetensors"
    trained(network("float64"), epochs=20).save(path)
    base = fastnn.load(path)
    model = fastnn.Sequential([*base.layers[:-1], fastnn.Dense(1)], seed=0, dtype="float64").build(FEATURES)
    model.set_weights({name: value for name, value in base.weights.items() if not name.startswith("4.")})
    X, y = examples("float64")
    model.freeze(*range(4))
    history = model.fit(
        X, y == 1, loss="sigmoid_cross_entropy", optimizer=fastnn.Adam(0.05), batch_size=BATCH, epochs=10, verbose=0
    )
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert all(np.array_equal(value, base.weights[name]) for name, value in model.weights.items() if name[0] != "4")


class Interfere(Callback):
    every = 1

    def step_end(self, run: Any) -> None:
        run.model.freeze(0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda model: model.freeze(5), errors.InputError, "expected numbers of layers from 0 to 4, got 5"),
        (lambda model: model.freeze(0, -6), errors.InputError, "got -6"),
        (lambda model: model.unfreeze("0"), errors.InputTypeError, r"unfreeze: expected numbers of layers such as .*got '0'"),
        (lambda model: model.freeze(True), errors.InputTypeError, "got True"),
        (lambda model: model.freeze([0, 1]), errors.InputTypeError, r"got \[0, 1\]"),
        (lambda model: trained(model, callbacks=[Interfere()]), errors.NotReadyError, "the model is being trained"),
        (lambda model: fastnn.Dense(3, trainable=1), errors.InputError, "trainable: expected True or False, got 1"),
        (lambda model: fastnn.BatchNorm(trainable=None), errors.InputError, "expected True or False"),
        (lambda model: fastnn.BatchNorm(learning_rate_factor=-1), errors.InputError, "expected a number above 0, got -1"),
        (lambda model: fastnn.Dense(3, learning_rate_factor=0), errors.InputError, "trainable=False freezes"),
        (lambda model: fastnn.Dense(3, l2=-0.1), errors.InputError, "l2: expected a number >= 0, or None"),
        (lambda model: fastnn.Dense(3, l1=float("nan")), errors.InputError, "l1: expected a number >= 0"),
        (lambda model: fastnn.Parameter((3,), None, True, "much"), errors.InputError, "Parameter: l2"),
    ],
)
def test_bad_input(call: Any, error: type[Exception], message: str) -> None:
    model = network()
    with pytest.raises(error, match=message):
        call(model)
    assert model.network.frozen == ()
    assert all(layer.trainable for layer in model.layers)


def test_everything_frozen_is_said() -> None:
    X, y = examples()
    model = network().freeze()
    before = model.weights
    for call in (
        lambda: model.fit(X, y, verbose=0),
        lambda: model.fit(X, y, batch_size="auto", verbose=0),
        lambda: model.partial_fit(X, y),
        lambda: model.program(device="cpu"),
        lambda: fastnn.check_gradients(fastnn.Sequential([fastnn.Dense(3)], seed=0).freeze(), X, y),
    ):
        with pytest.raises(errors.InputError, match=r"every layer with parameters is frozen; model\.unfreeze"):
            call()
    assert changed(before, model) == set()
    assert model.task is None
    fresh = fastnn.Sequential([fastnn.Dense(CLASSES)], seed=0).freeze()
    with pytest.raises(errors.InputError, match="frozen"):
        fresh.fit(X, y, verbose=0)
    assert not fresh.built


@pytest.mark.parametrize("fused", [True, False])
def test_the_gradient_check_says_what_is_frozen(fused: bool) -> None:
    X, y = examples()
    layers = [
        fastnn.Dense(4, l2=0.3, l1=0.01), fastnn.BatchNorm(), fastnn.Activation("elu"),
        fastnn.Dense(4, activation="tanh", l1=0.2), fastnn.Dense(CLASSES),
    ]  # fmt: skip
    model = fastnn.Sequential(layers, seed=1).build(FEATURES)
    model.set_weights({"1.running_mean": np.full(4, 0.3, "float32")})
    for frozen in ((), (1,), (0, 1), (3,), (4,)):
        model.unfreeze()
        result = fastnn.check_gradients(model.freeze(*frozen) if frozen else model, X, y, l2=0.05, fused=fused)
        assert result.passed, str(result)
        assert {int(name[0]) for name in result.frozen} == set(frozen)
        assert {int(name[0]) for name in result.names} == {0, 1, 3, 4} - set(frozen)
        assert str(result).count("frozen") == len(result.frozen)


def test_a_run_that_goes_on_has_the_same_frozen_layers(tmp_path: Path) -> None:
    whole = trained(network(norm=True).freeze(0, 1), epochs=4)
    trained(network(norm=True).freeze(0, 1), epochs=2, callbacks=[Checkpoint(tmp_path)])
    for other in (network(norm=True), network(norm=True).freeze(0)):
        before = other.weights
        with pytest.raises(errors.InputError, match=r"other frozen layers: it has \[0, 1\], this call"):
            trained(other, epochs=4, resume=tmp_path)
        assert changed(before, other) == set()
    again = trained(network(norm=True).freeze(0, 1), epochs=4, resume=tmp_path)
    assert changed(whole.weights, again) == set()
    with pytest.warns(UserWarning, match=r"training_of_layers \[\['0.weight', 0.1, None, 1.0\]\] \(it was None\)"):
        trained(network(norm=True, l2=0.1).freeze(0, 1), epochs=4, resume=tmp_path)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_on_a_gpu_made_of_the_host(precision: str, cuda_host: HostRuntime) -> None:
    if precision == "bf16":
        pytest.importorskip("ml_dtypes")
    options: dict[str, Any] = {"optimizer": fastnn.AdamW(0.002, clip_norm=0.5), "l2": 1e-3, "epochs": 4}
    model, by_cpu = network(norm=True).freeze(1, 3), network(norm=True).freeze(1, 3)
    before = model.weights
    trained(model, device="cuda", precision=precision, **options)
    assert changed(before, model) == {"0.weight", "5.weight", "5.bias"}
    trained(by_cpu, **options)
    for name, value in by_cpu.weights.items():
        np.testing.assert_allclose(model.weights[name], value, atol=1e-5 if precision == "float32" else 2e-2)
    trained(model.unfreeze(), device="cuda", precision=precision, **options)
    assert changed(before, model) == set(before)
