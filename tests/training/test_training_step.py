"""Loops of one's own: the steps of `training_step`, which are those of `partial_fit` and of `fit`, bit for bit."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fastnn
from fastnn import Activation, BatchNorm, Dense, Dropout, Sequential, schedules
from fastnn.errors import DivergenceError, InputError, InputTypeError, NotReadyError
from fastnn.training import step as step_module
from fastnn.training.step import SingleSteps

if TYPE_CHECKING:
    from cuda_on_host.runtime import HostRuntime

ROWS = (7, 7, 3, 7, 1, 5, 7, 7, 9, 2, 7, 7)
"""Of the mini-batches of a training; one has more than `batch_size`."""


def plain(outputs: int = 3, **options: Any) -> Sequential:
    layers = [Dense(6, activation="tanh"), Dense(outputs)]
    return Sequential(layers, **{"seed": 3, **options}).build(4)


def mixed(**options: Any) -> Sequential:
    layers = [Dense(6), BatchNorm(), Activation("relu"), Dropout(0.3), Dense(5, activation="tanh"), Dense(3)]
    return Sequential(layers, **{"seed": 3, **options}).build(4)


def mini_batches(dtype: str = "float32", least: int = 1, scale: float = 1.0) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    rows = [max(each, least) for each in ROWS]
    return [((scale * rng.standard_normal((n, 4))).astype(dtype), rng.integers(0, 3, n)) for n in rows]


def everything(model: Sequential) -> dict[str, bytes]:
    state = model.optimizer_state
    assert state is not None
    arrays = {**model.weights, **state.slots}
    counts = {"counts": repr((model.counters, state.updates)).encode()}
    return {name: array.tobytes() for name, array in arrays.items()} | counts


CASES: dict[str, tuple[Callable[..., Sequential], dict[str, Any]]] = {
    "adam": (plain, {"optimizer": fastnn.Adam(0.01)}),
    "batch norm and dropout": (mixed, {"optimizer": fastnn.Adam(0.01)}),
    "penalties": (mixed, {"optimizer": fastnn.SGD(0.05, momentum=0.9), "l2": 0.01, "l1": 0.001}),
    "clipped": (plain, {"optimizer": fastnn.Adam(0.01, clip_norm=0.1)}),
    "averaged": (plain, {"optimizer": fastnn.Adam(0.01, ema=0.9)}),
    "schedule": (plain, {"optimizer": fastnn.SGD(schedules.Exponential(0.1, 0.7, per="step"))}),
    "frozen": (lambda **options: mixed(**options).freeze(0), {"optimizer": fastnn.Adam(0.01)}),
}


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several stretches of steps in each training."""
    monkeypatch.setattr(step_module, "LONGEST", 5)


@pytest.mark.parametrize("device", ["cpu", "numpy", "cuda"])
@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_partial_fit(case: str, device: str, cuda_host: HostRuntime) -> None:
    make, options = CASES[case]
    ours, theirs = make(), make()
    step = ours.training_step(batch_size=7, device=device, **options)
    for X, y in mini_batches(least=2 if make is not plain else 1):
        values = theirs.partial_fit(X, y, loss="softmax_cross_entropy", device=device, **options)
        assert step(X, y) == pytest.approx(values["loss"], rel=1e-6)
        assert everything(ours) == everything(theirs)
    assert ours.counters.step == len(ROWS)
    assert ours.task == theirs.task
    assert ours.device == theirs.device


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_steps_are_those_of_fit(dtype: str) -> None:
    ours, theirs = mixed(dtype=dtype), mixed(dtype=dtype)
    step = ours.training_step(optimizer=fastnn.Adam(0.01), batch_size=7)
    for X, y in mini_batches(dtype, 2):
        weights = np.linspace(0.5, 2, len(X)).astype(dtype)
        loss = step(X, y, weights)
        history = theirs.fit(
            X, y, sample_weight=weights, optimizer=fastnn.Adam(0.01), batch_size="all", epochs=1, verbose=0, classes=range(3),
            shuffle=False,
        )  # fmt: skip
        assert loss == pytest.approx(history["loss"][0], rel=1e-6)
        theirs.data_glance = None  # other data are meant
    assert everything(ours) == everything(theirs)


def test_partial_fit_has_the_bits_of_fit() -> None:
    """It plays single steps, with weights and without."""
    ours, theirs = mixed(), mixed()
    options: dict[str, Any] = {"optimizer": fastnn.Adam(0.01), "l2": 0.01, "classes": range(3)}
    for index, (X, y) in enumerate(mini_batches(least=2)):
        weights = np.linspace(1, 2, len(X)) if index % 3 == 1 else None
        values = ours.partial_fit(X, y, sample_weight=weights, **options)
        history = theirs.fit(X, y, sample_weight=weights, batch_size="all", epochs=1, verbose=0, shuffle=False, **options)
        theirs.data_glance = None
        assert values == {name: column[0] for name, column in history.items()}
    assert everything(ours) == everything(theirs)


@pytest.mark.parametrize("kind", ["NaN", "class", "shape", "dtype of X", "label"])
def test_partial_fit_checks_every_call(kind: str) -> None:
    """What comes later is looked at as what came first: the same errors, or the same steps."""
    X, y = mini_batches()[0]
    later: dict[str, tuple[Any, Any]] = {
        "NaN": (np.where(np.arange(4) == 1, np.float32(np.nan), X), y),
        "class": (X, np.where(y == y[0], 3, y)),
        "shape": (X[:, :3], y),
        "dtype of X": (np.abs(10 * X).astype("uint8"), y),
        "label": (X, y.astype(str)),
    }
    first, second = plain(), plain()
    second.partial_fit(X, y)
    second.partial_fit(X, y)
    found = []
    for model in (second,) if kind in ("class", "label") else (first, second):  # other labels may come first
        counts, weights = model.counters.step, {name: value.tobytes() for name, value in model.weights.items()}
        if kind == "dtype of X":
            model.partial_fit(*later[kind])
            assert model.counters.step == counts + 1
            continue
        with pytest.raises(InputError) as error:
            model.partial_fit(*later[kind])
        found.append(str(error.value))
        assert model.counters.step == counts
        assert {name: value.tobytes() for name, value in model.weights.items()} == weights
    if kind in ("NaN", "shape"):
        assert found[0] == found[1]


def test_partial_fit_of_bytes_goes_on_as_fit_does() -> None:
    """Rows of other dtypes, and labels that are no indices, take turns."""
    ours, theirs = plain(), plain()
    X, y = mini_batches()[0]
    names = np.array(["a", "b", "c"])
    for index in range(6):
        rows: Any = X if index % 2 else np.abs(10 * X).astype("uint8")
        ours.partial_fit(rows, names[y], classes=None if index else names)
        theirs.fit(rows, names[y], batch_size="all", epochs=1, verbose=0, shuffle=False, classes=names)
        theirs.data_glance = None
        assert everything(ours) == everything(theirs)
    assert ours.predict(X).tolist() == theirs.predict(X).tolist()


def test_what_comes_between_is_gone_on_from() -> None:
    """Steps of several functions, `fit`, `set_weights`, freezing, and a device that is another one."""
    ours, theirs = plain(), plain()
    batches = mini_batches()
    steps = [ours.training_step(optimizer=fastnn.Adam(rate), batch_size=7) for rate in (0.01, 0.1)]
    X, y = batches[0]

    def between(model: Sequential, index: int) -> None:
        if index == 2:
            model.set_weights({"0.weight": np.full((4, 6), 0.1, np.float32)})
        elif index == 4:
            model.fit(X, y, optimizer=fastnn.Adam(0.02), batch_size=2, epochs=1, verbose=0)
        elif index == 6:
            model.freeze(0)
        elif index == 8:
            model.unfreeze().restore(model.snapshot())
        elif index == 9:
            model.partial_fit(X, y, optimizer=fastnn.Adam(0.02), device="numpy")

    for index, batch in enumerate(batches):
        between(ours, index)
        between(theirs, index)
        steps[index % 2](*batch)
        theirs.partial_fit(*batch, loss="softmax_cross_entropy", optimizer=fastnn.Adam((0.01, 0.1)[index % 2]), device="cpu")
        assert everything(ours) == everything(theirs), index


def torch_step(model: Sequential, X: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray, Any]:
    """The loss mean(w l), its gradient with respect to X, and the parameters after a step of SGD at 0.1, by PyTorch."""
    torch = pytest.importorskip("torch")
    values = {name: torch.tensor(value, requires_grad=True) for name, value in model.weights.items()}
    x = torch.tensor(X, requires_grad=True)
    logits = torch.tanh(x @ values["0.weight"] + values["0.bias"]) @ values["1.weight"] + values["1.bias"]
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor(y), reduction="none")
    loss = (torch.tensor(weights) * losses).mean()
    loss.backward()
    return loss.item(), x.grad.numpy(), {name: (v - 0.1 * v.grad).detach().numpy() for name, v in values.items()}


@pytest.mark.parametrize("device", ["cpu", "numpy", "cuda"])
def test_weights_of_any_sign_and_gradients_of_inputs(device: str, cuda_host: HostRuntime) -> None:
    model = plain(dtype="float64")
    step = model.training_step(optimizer=fastnn.SGD(0.1), normalize_weights=False, input_gradients=True, device=device)
    for X, y in mini_batches("float64")[:3]:
        weights = np.random.default_rng(len(X)).standard_normal(len(X))
        weights -= weights.mean()  # a sum that a mean cannot be divided by
        loss, slopes, after = torch_step(model, X, y, weights)
        found, found_slopes = step(X, y, weights)
        assert found == pytest.approx(loss, rel=1e-12)
        np.testing.assert_allclose(found_slopes, slopes, rtol=1e-10, atol=1e-14)
        for name, value in model.weights.items():
            np.testing.assert_allclose(value, after[name], rtol=1e-10, atol=1e-14)


def test_gradients_of_inputs_as_they_were_given() -> None:
    """Behind a Standardizer and a scale they are those of X, not of what the first layer is given; by finite differences."""
    X = 5 + 3 * np.random.default_rng(0).standard_normal((6, 4))
    y = np.arange(6) % 3
    layers = [fastnn.Standardizer(X.mean(axis=0), X.std(axis=0)), Dense(3)]
    model = Sequential(layers, seed=0, dtype="float64", input_scale=0.5).build(4)
    step = model.training_step(optimizer=fastnn.SGD(0.0), input_gradients=True)
    _, slopes = step(X, y)
    h = 1e-5
    for row, column in ((0, 0), (3, 2), (5, 3)):
        above, below = X.copy(), X.copy()
        above[row, column] += h
        below[row, column] -= h
        assert slopes[row, column] == pytest.approx((step(above, y)[0] - step(below, y)[0]) / (2 * h), rel=1e-6)


@pytest.mark.parametrize(
    ("loss", "outputs", "y"),
    [
        ("mean_squared_error", 1, np.linspace(-1, 1, 7).astype("float32")),
        ("mean_squared_error", 1, np.linspace(-1, 1, 7).astype("float32").reshape(7, 1)),
        ("mean_squared_error", 3, np.linspace(-1, 1, 21).astype("float32").reshape(7, 3)),
        ("sigmoid_cross_entropy", 1, np.arange(7) % 2),
        ("sigmoid_cross_entropy", 3, (np.arange(21) % 2).reshape(7, 3)),
        ("softmax_cross_entropy", 3, np.full((7, 3), 1 / 3, np.float32)),
        (fastnn.losses.huber(delta=0.5), 1, np.linspace(-1, 1, 7).astype("float32")),
    ],
)
def test_targets(loss: Any, outputs: int, y: np.ndarray) -> None:
    ours, theirs = plain(outputs), plain(outputs)
    X = mini_batches()[0][0]
    step = ours.training_step(loss=loss)
    for _ in range(3):
        assert step(X, y) == pytest.approx(theirs.partial_fit(X, y, loss=loss)["loss"], rel=1e-6)
    assert everything(ours) == everything(theirs)
    assert len(ours.predict(X)) == len(theirs.predict(X)) == 7


def test_a_loss_of_ones_own() -> None:
    model = plain(1)
    step = model.training_step(loss=lambda a, t: fastnn.ops.sum((a - t) * (a - t), axis=1), optimizer=fastnn.SGD(0.05))
    X, y = mini_batches()[0][0], np.ones((7, 1), np.float32)
    losses = [step(X, y) for _ in range(30)]
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("device", ["cpu", "numpy", "cuda"])
@pytest.mark.parametrize("spoiled", ["X", "weights", "overflow"])
def test_what_is_not_finite_leaves_the_last_finite_step(spoiled: str, device: str, cuda_host: HostRuntime) -> None:
    ours, theirs = mixed(), mixed()
    step = ours.training_step(optimizer=fastnn.Adam(0.01), batch_size=7, device=device)
    batches = mini_batches(least=2)
    for index, (X, y) in enumerate(batches):
        step(X, y)
        theirs.partial_fit(X, y, loss="softmax_cross_entropy", optimizer=fastnn.Adam(0.01), device=device)
        if index in (0, 3, 8):
            bad, weights = X.copy(), np.ones(len(X), np.float32)
            if spoiled == "X":
                bad[1, 2] = np.nan
            elif spoiled == "weights":
                weights[0] = np.inf
            else:
                bad[:] = 3e38
            with pytest.raises(DivergenceError, match=f"step {index + 2}: .* became NaN or infinite"):
                step(bad, y, weights)
            assert everything(ours) == everything(theirs)
    assert everything(ours) == everything(theirs)


def test_parameters_that_diverge_while_the_loss_is_finite() -> None:
    """A rate at which the first update overflows: the step before it is what is left."""
    table = schedules.Table({0: 0.01, 3: 3e38}, per="step")
    model = plain(1)
    step = model.training_step(loss="mean_squared_error", optimizer=fastnn.SGD(table))
    X, y = mini_batches()[0][0], np.full(7, 100, np.float32)
    for _ in range(3):
        step(X, y)
    before = everything(model)
    for _ in range(2):
        with pytest.raises(DivergenceError, match=r"step 4: parameters of sgd became NaN or infinite.*it was 3e\+38"):
            step(X, y)
        assert everything(model) == before


@pytest.mark.parametrize("where", ["play", "log", "count"])
@pytest.mark.parametrize("index", [0, 3, 5])
def test_ctrl_c_undoes_the_step(where: str, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = mixed(), mixed()
    batches = mini_batches(least=2)
    steps = [model.training_step(optimizer=fastnn.Adam(0.01), batch_size=7) for model in (ours, theirs)]
    for i, batch in enumerate(batches):
        steps[1](*batch)
        if i == index:
            before = everything(ours) if i else None
            with monkeypatch.context() as patch:
                press_in(patch, where)
                with pytest.raises(KeyboardInterrupt):
                    steps[0](*batch)
            assert before is None or everything(ours) == before
        steps[0](*batch)
        assert everything(ours) == everything(theirs)


def press_in(patch: pytest.MonkeyPatch, where: str) -> None:
    """Have Ctrl-C pressed once, after what is called next."""
    from fastnn.engines.host import HostEngine, HostInstance
    from fastnn.network.state import State

    owner, name = {"play": (HostInstance, "play"), "log": (HostEngine, "read"), "count": (State, "advance")}[where]
    function, pressed = getattr(owner, name), []

    def pressing(*arguments: Any, **keywords: Any) -> Any:
        result = function(*arguments, **keywords)
        if not pressed:
            pressed.append(True)
            signal.raise_signal(signal.SIGINT)
        return result

    patch.setattr(owner, name, pressing)


def test_a_first_step_that_is_interrupted_leaves_another_optimizer_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (X, y) = plain(), mini_batches()[0]
    model.partial_fit(X, y, optimizer=fastnn.Adam(0.01))
    before, optimizer = everything(model), model.optimizer
    step = model.training_step(optimizer=fastnn.SGD(0.1, momentum=0.9))
    press_in(monkeypatch, "play")
    with pytest.warns(UserWarning, match="Adam cannot be used by SGD"), pytest.raises(KeyboardInterrupt):
        step(X, y)
    assert (everything(model), model.optimizer) == (before, optimizer)
    with pytest.warns(UserWarning, match="Adam cannot be used by SGD"):
        step(X, y)
    assert set(model.optimizer_state or ()) == {"velocity"}


def test_a_first_step_without_room_leaves_another_optimizer_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (X, y) = plain(), mini_batches()[0]
    model.partial_fit(X, y, optimizer=fastnn.Adam(0.01))
    before, optimizer = everything(model), model.optimizer
    step = model.training_step(optimizer=fastnn.SGD(0.1, momentum=0.9))
    with monkeypatch.context() as patch:
        patch.setattr(SingleSteps, "_make_room", lambda *arguments: (_ for _ in ()).throw(MemoryError("no room")))
        with pytest.warns(UserWarning, match="Adam cannot be used by SGD"), pytest.raises(MemoryError):
            step(X, y)
    assert (everything(model), model.optimizer) == (before, optimizer)
    with pytest.warns(UserWarning, match="Adam cannot be used by SGD"):
        step(X, y)
    assert set(model.optimizer_state or ()) == {"velocity"}


@pytest.mark.parametrize(("pressed", "left"), [({1, 3}, 4), ({1, 3, 5}, 2)])
def test_an_undo_that_is_interrupted_begins_again(pressed: set[int], left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once; a third Ctrl-C leaves a whole step, but an earlier one."""
    model = plain()
    step = model.training_step(optimizer=fastnn.Adam(0.01), batch_size=7)
    seen = []
    for X, y in mini_batches()[:4]:
        step(X, y)
        seen.append(everything(model))
    with monkeypatch.context() as patch:
        advance, calls = type(model.state).advance, []

        def twice(*arguments: Any, **keywords: Any) -> None:
            advance(*arguments, **keywords)
            calls.append(1)
            if len(calls) in pressed:  # in the step, and after the second of those that are made again
                raise KeyboardInterrupt

        patch.setattr(type(model.state), "advance", twice)
        with pytest.raises(KeyboardInterrupt):
            step(X, y)
    assert everything(model) == seen[left - 1]
    for X, y in mini_batches()[left:4]:
        step(X, y)
    assert everything(model) == seen[3]


def test_no_snapshot_but_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stretch of steps copies the model once, into the same memory each time."""
    model = plain()
    made: list[Any] = []
    snapshot = type(model.state).snapshot

    def noting(*arguments: Any) -> Any:
        result = snapshot(*arguments)
        made.append(result.arrays["parameters"].ctypes.data)
        return result

    step = model.training_step(batch_size=7)
    X, y = mini_batches()[0]
    step(X, y)
    monkeypatch.setattr(type(model.state), "snapshot", noting)
    for _ in range(15):
        step(X, y)
    assert len(made) == 3
    assert len(set(made)) == 1


def test_mini_batches_that_are_larger_than_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a snapshot of its own; `partial_fit` trains on the largest where they lie."""
    monkeypatch.setattr(step_module, "KEPT_BYTES", 1)
    monkeypatch.setattr(step_module, "LARGEST_BYTES", 16 * 7)
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((300, 4)).astype("float32"), rng.integers(0, 3, 300)
    ours, theirs = plain(), plain()
    step = ours.training_step(batch_size=300)
    for rows in (300, 7, 300, 300):
        step(X[:rows], y[:rows])
        theirs.partial_fit(X[:rows], y[:rows])
        assert everything(ours) == everything(theirs)
    before = everything(ours)
    with pytest.raises(DivergenceError):
        step(np.full_like(X, np.nan), y)
    assert everything(ours) == before


def test_a_copy_of_a_model_has_steps_of_its_own() -> None:
    """What `partial_fit` keeps is the model's, and a copy of it has none of that."""
    model = plain()
    X, y = mini_batches()[0]
    for _ in range(3):
        model.partial_fit(X, y)
    twin = copy.deepcopy(model)
    model.partial_fit(X, y)
    twin.partial_fit(X, y)
    assert everything(model) == everything(twin)


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(NotReadyError, match="build"):
        Sequential([Dense(3)]).training_step()
    model = plain()
    for options, says in (
        ({"batch_size": 0}, "batch_size: expected an integer >= 1"),
        ({"batch_size": "all"}, "batch_size: expected an integer >= 1, got 'all'"),
        ({"normalize_weights": 1}, "normalize_weights: expected True or False, got 1"),
        ({"l2": -1.0}, "l2: expected a number >= 0"),
        ({"optimizer": fastnn.SGD(schedules.Cosine(0.1, per="step"))}, "training_step: the rates of Cosine"),
        ({"loss": "sigmoid"}, "no loss is called 'sigmoid'"),
    ):
        with pytest.raises(InputError, match=says):
            model.training_step(**options)
    with pytest.raises(InputTypeError, match="training_step has no 'epochs'"):
        model.training_step(epochs=3)  # type: ignore[call-arg]
    with pytest.raises(InputError, match="nothing is left to train"):
        plain().freeze().training_step()


@pytest.mark.parametrize(
    ("arrays", "error", "says"),
    [
        ((np.ones((2, 4)), [0, 1]), InputTypeError, r"X: expected float32, got float64; convert it with .astype\('float32'\)"),
        ((np.ones((2, 3), "f"), [0, 1]), InputError, r"X: expected shape \('B', 4\) with B >= 1, got \(2, 3\)"),
        ((np.ones((0, 4), "f"), []), InputError, r"got \(0, 4\)"),
        ((np.ones(4, "f"), [0]), InputError, r"got \(4,\)"),
        ((np.ones((2, 4), "f"), [0, 3]), InputError, "y: expected class indices 0 to 2, got 0 to 3"),
        ((np.ones((2, 4), "f"), [-1, 0]), InputError, "y: expected class indices 0 to 2, got -1 to 0"),
        (
            (np.ones((2, 4), "f"), [0]),
            InputError,
            r"y: expected class indices \(2,\) or rows \(2, 3\), got int64 of shape \(1,\)",
        ),
        ((np.ones((2, 4), "f"), np.ones((2, 3))), InputTypeError, "y: expected integers or float32, got float64"),
        ((np.ones((2, 4), "f"), ["a", "b"]), InputTypeError, "y: expected integers or float32, got <U1"),
        (
            (np.ones((2, 4), "f"), [0, 1], np.ones(2)),
            InputError,
            r"sample_weight: expected float32 of shape \(2,\), got float64",
        ),
        ((np.ones((2, 4), "f"), [0, 1], np.ones(3, "f")), InputError, r"sample_weight: .* of shape \(3,\)"),
    ],
)
def test_arrays_that_do_not_fit(arrays: Any, error: type[Exception], says: str) -> None:
    model = plain()
    step = model.training_step()
    before = {name: value.tobytes() for name, value in model.weights.items()}
    with pytest.raises(error, match=says):
        step(*arrays)
    assert {name: value.tobytes() for name, value in model.weights.items()} == before
    assert model.counters.step == 0


def test_one_row_and_batch_norm() -> None:
    step = mixed().training_step()
    with pytest.raises(InputError, match="batch norm cannot be trained on a mini-batch of one example"):
        step(np.ones((1, 4), "f"), [0])


def test_while_it_is_trained_elsewhere() -> None:
    model = plain()
    step = model.training_step()
    with model.reserve(), pytest.raises(NotReadyError, match="being trained already"):
        step(*mini_batches()[0])


def test_steps_keep_what_the_model_knows_of_its_labels() -> None:
    """Behind a `fit` with labels of any kind, targets are their indices, and predictions the labels."""
    model, (X, y) = plain(), mini_batches()[0]
    names = np.array(["a", "b", "c"])
    model.partial_fit(X, names[y], classes=names)
    model.training_step()(X, y)
    assert set(model.predict(X)) <= {"a", "b", "c"}
