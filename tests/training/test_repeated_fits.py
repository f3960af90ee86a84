"""Calls of `fit` one after another: what a model keeps for the next one is not felt."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import schedules
from fastnn.errors import DivergenceError
from fastnn.network.state import State
from fastnn.training import method, one_step, undo
from fastnn.training.history import History
from fastnn.training.step import LONGEST, SingleSteps
from fastnn.training.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore:the model was trained on other data")

RNG = np.random.default_rng(0)
X = RNG.random((24, 5), np.float32)
Y = RNG.integers(0, 3, 24)
OTHER = RNG.random((24, 5), np.float32)
WEIGHTS = RNG.random(24).astype(np.float32)

OPTIONS: dict[str, Any] = {"batch_size": 8, "epochs": 2, "verbose": 0, "device": "cpu"}


def network(**options: Any) -> fastnn.Sequential:
    layers = [fastnn.Dense(6, activation="tanh"), fastnn.Dense(4, activation="tanh", l2=None), fastnn.Dense(3)]
    return fastnn.Sequential(layers, seed=3, **options)


def state(model: fastnn.Sequential) -> list[bytes]:
    """Everything that training changes."""
    snapshot = model.snapshot()
    counts = repr((snapshot.optimizer, snapshot.updates, snapshot.step, snapshot.epoch))
    return [*(array.tobytes() for array in snapshot.arrays.values()), counts.encode()]


Change = Callable[[fastnn.Sequential, dict[str, Any]], Any]


ONE_STEP: dict[str, Any] = {"batch_size": 24, "epochs": 1}
"""Of calls of which each makes one step."""

ALIKE = 6
"""Of a new model, so many such calls end with two that are single steps, where `few_trained` lets them."""


@pytest.fixture
def few_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_step, "TRAINED_BEFORE", ALIKE - 3)


def everything_told(history: History) -> tuple[Any, ...]:
    """All of a history but for the threads, which the times of the calls decide on."""
    return dict(history), [getattr(history, name) for name in History.__annotations__ if name != "threads"]


def run(change: Change | None, afresh: bool, **options: Any) -> list[bytes]:
    """Calls alike, a change, and calls with what is another then. `afresh`: nothing is kept between the calls."""
    model, call = network(), {"X": X.copy(), "y": Y.copy(), "optimizer": fastnn.Adam(0.01, ema=0.9), **OPTIONS, **options}
    told = []
    alike = ALIKE if options else 2
    for turn in range(2 * alike):
        if turn == alike and change is not None:
            change(model, call)
        if afresh:
            model.instances.clear()
        history = model.fit(**call)
        told.append(repr(everything_told(history)).encode())
    return [*state(model), *told]


def last_method(model: fastnn.Sequential) -> method.Method:
    """What the model keeps of its last training."""
    with model.instances.take("method", method.LastMethod) as kept:
        assert kept._last is not None
        found: method.Method = kept._last[2]
        return found


def option(**options: Any) -> Change:
    return lambda model, call: call.update(options)


def in_place(**attributes: Any) -> Change:
    """Another attribute of the same optimizer, which is frozen for those who ask politely."""

    def change(model: fastnn.Sequential, call: dict[str, Any]) -> None:
        for name, value in attributes.items():
            object.__setattr__(call["optimizer"], name, value)

    return change


def freeze_in_place(model: fastnn.Sequential, call: dict[str, Any]) -> None:
    model.layers[1].trainable = False


def write_X(model: fastnn.Sequential, call: dict[str, Any]) -> None:
    call["X"][...] = OTHER


def write_y(model: fastnn.Sequential, call: dict[str, Any]) -> None:
    call["y"][...] = Y[::-1]


def double_weights(model: fastnn.Sequential, call: dict[str, Any]) -> None:
    model.set_weights({name: 2 * array for name, array in model.weights.items()})


def double_state(model: fastnn.Sequential, call: dict[str, Any]) -> None:
    kept = model.optimizer_state
    assert kept is not None
    model.set_optimizer_state({"square": {name: 2 * array for name, array in kept["square"].items()}}, updates=1)


def step_between(model: fastnn.Sequential, call: dict[str, Any]) -> None:
    model.partial_fit(OTHER, Y, optimizer=call["optimizer"], device="cpu")


CHANGES: dict[str, Change] = {
    "loss": option(loss="mean_squared_error"),
    "label_smoothing": option(label_smoothing=0.2),
    "own_loss": option(loss=lambda outputs, targets: fastnn.losses.LOSSES["quadratic"].function(outputs, targets)),
    "l2": option(l2=0.1),
    "l1": option(l1=0.1),
    "learning_rate": option(optimizer=fastnn.Adam(0.03, ema=0.9)),
    "schedule": option(optimizer=fastnn.Adam(schedules.Exponential(0.01, 0.5), ema=0.9)),
    "beta": option(optimizer=fastnn.Adam(0.01, beta1=0.5, ema=0.9)),
    "ema": option(optimizer=fastnn.Adam(0.01, ema=0.5)),
    "no_ema": option(optimizer=fastnn.Adam(0.01)),
    "clip_norm": option(optimizer=fastnn.Adam(0.01, clip_norm=0.01, ema=0.9)),
    "another_class": option(optimizer=fastnn.AdamW(0.01, weight_decay=0.5, ema=0.9)),
    "learning_rate_in_place": in_place(learning_rate=0.03),
    "schedule_in_place": in_place(learning_rate=schedules.Exponential(0.01, 0.5)),
    "beta_in_place": in_place(beta1=0.5),
    "correction_in_place": in_place(beta2=0.5),
    "ema_in_place": in_place(ema=0.5),
    "clip_value_in_place": in_place(clip_value=1e-3),
    "epsilon_inside_in_place": in_place(epsilon=0.1, epsilon_inside=True),
    "freeze": lambda model, call: model.freeze(1),
    "freeze_in_place": freeze_in_place,
    "device": option(device="numpy"),
    "batch_size": option(batch_size=5),
    "epochs": option(epochs=3),
    "shuffle": option(shuffle=False),
    "order": option(order=lambda epoch: range(11)),
    "sample_weight": option(sample_weight=WEIGHTS),
    "class_weight": option(class_weight={0: 3.0}),
    "validation_data": option(validation_data=(OTHER, Y)),
    "metrics": option(validation_data=(OTHER, Y), metrics=["f1"]),
    "bytes": option(X=(200 * X).astype(np.uint8)),
    "float64": option(X=X.astype(np.float64) / 3),
    "rows_of_lists": option(X=(X / 3).tolist()),
    "one_hot": option(y=np.eye(3, dtype=np.float32)[Y[::-1]]),
    "other_labels_of_the_same_shape": option(y=Y[::-1].copy()),
    "small_integers": option(y=Y[::-1].astype(np.int8)),
    "fewer_examples": option(X=X[:9], y=Y[:9]),
    "X_in_place": write_X,
    "y_in_place": write_y,
    "weights": double_weights,
    "optimizer_state": double_state,
    "a_step_between": step_between,
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CHANGES)
def test_what_changed_between_two_calls_is_seen(name: str) -> None:
    changed = run(CHANGES[name], afresh=False)
    assert changed == run(CHANGES[name], afresh=True)
    assert changed != run(None, afresh=False), "the change would not be felt"


@pytest.mark.usefixtures("few_trained")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CHANGES)
def test_what_changed_between_two_calls_of_one_step_is_seen(name: str) -> None:
    assert run(CHANGES[name], afresh=False, **ONE_STEP) == run(CHANGES[name], afresh=True, **ONE_STEP)


SEEN_IN_A_STEP = {"X_in_place", "y_in_place", "other_labels_of_the_same_shape"}
"""Changes of the data that a step sees: all other calls are prepared by a `Trainer`."""


@pytest.mark.usefixtures("few_trained")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["nothing", *CHANGES])
def test_a_call_of_one_step_is_a_single_step_where_the_one_before_was_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(Trainer, "train", noted(Trainer.train, "trainer", made))
    monkeypatch.setattr(SingleSteps, "make", noted(SingleSteps.make, "step", made))
    model, call = network(), {"X": X.copy(), "y": Y.copy(), "optimizer": fastnn.Adam(0.01, ema=0.9), **OPTIONS, **ONE_STEP}
    for _ in range(ALIKE):
        model.fit(**call)
    assert made == ["trainer"] * (ALIKE - 2) + ["step", "step"]
    if name != "nothing":
        CHANGES[name](model, call)
    made.clear()
    model.fit(**call)
    assert made[-1] == ("step" if name == "nothing" or name in SEEN_IN_A_STEP else "trainer")


def noted(function: Any, name: str, made: list[str]) -> Any:
    """The function, whose calls are noted by this name."""

    def call(*arguments: Any) -> Any:
        made.append(name)
        return function(*arguments)

    return call


@pytest.mark.usefixtures("few_trained")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_calls_of_one_step_of_networks_with_state() -> None:
    """Dropout, statistics, a penalty, bytes, several sizes: bits and histories are those of calls of which nothing is kept."""
    found = []
    for afresh in (False, True):
        layers = [fastnn.Dense(9), fastnn.BatchNorm(), fastnn.Dropout(0.3), fastnn.Dense(3)]
        model, told = fastnn.Sequential(layers, seed=4, input_scale=1 / 255), []
        data = (255 * X).astype(np.uint8)
        for turn in range(3 * LONGEST // 2):
            if afresh:
                model.instances.clear()
            n = 24 if turn % 80 < 70 else 17
            history = model.fit(data[:n], Y[:n], batch_size="all", epochs=1, l2=0.1, verbose=0, device="cpu")
            told.append(everything_told(history))
        found.append((state(model), told, model.task, model.device, model.optimizer))
    assert found[0] == found[1]


@pytest.mark.usefixtures("few_trained")
def test_a_call_of_one_step_that_diverges_leaves_the_bits_before_it() -> None:
    model, call = large(), {**OPTIONS, **ONE_STEP}
    for _ in range(ALIKE):
        model.fit(X, Y, **call)
    for _ in range(2):
        before = state(model)
        with pytest.raises(DivergenceError, match=f"epoch 1, step {ALIKE + 1}: the result of dense became NaN"):
            model.fit(HUGE, Y, **call)
        assert state(model) == before


@pytest.mark.usefixtures("few_trained")
def test_other_data_are_told_in_a_call_of_one_step() -> None:
    model, call = network(), {**OPTIONS, **ONE_STEP}
    for _ in range(ALIKE):
        model.fit(X, Y, **call)
    with pytest.warns(UserWarning, match="trained on other data"):
        model.fit(OTHER, Y, **call)


@pytest.mark.usefixtures("few_trained")
def test_other_data_are_told_after_a_step_that_failed() -> None:
    model, call = large(), {**OPTIONS, **ONE_STEP}
    for _ in range(ALIKE - 2):
        model.fit(X, Y, **call)
    with pytest.raises(DivergenceError):  # the first of the single steps
        model.fit(HUGE, Y, **call)
    with pytest.warns(UserWarning, match="trained on other data"):
        model.fit(OTHER, Y, **call)


@pytest.mark.usefixtures("few_trained")
@pytest.mark.parametrize(
    "option",
    [
        {"epochs": True}, {"epochs": np.ones(2)}, {"callbacks": 0}, {"metrics": ""}, {"l2": False},
        {"threads": True}, {"label_smoothing": "0"}, {"shuffle": 1}, {"X": X[0]}, {"X": np.float32(1)},
        {"precision": "float"}, {"X": np.where(X > 0.5, np.nan, X)}, {"y": Y[1:]},
    ],
    ids=str,
)  # fmt: skip
def test_a_call_of_one_step_refuses_what_the_first_one_does(option: dict[str, Any]) -> None:
    call: dict[str, Any] = {"X": X, "y": Y, **OPTIONS, **ONE_STEP, "threads": 1, **option}
    errors = []
    for calls in (0, ALIKE):
        model = network()
        for _ in range(calls):
            model.fit(X, Y, **{**OPTIONS, **ONE_STEP}, threads=1)
        before = state(model)
        with pytest.raises(fastnn.errors.FastnnError) as raised:
            model.fit(**call)
        assert state(model) == before
        errors.append(type(raised.value))
    assert errors[0] is errors[1]


FORGOTTEN = {
    "variant": ["freeze_in_place"],
    "engine": ["device"],
    "loss": ["loss", "label_smoothing"],
    "update": ["beta", "ema", "clip_norm", "beta_in_place", "clip_value_in_place", "epsilon_inside_in_place"],
    "penalties": ["l2", "l1", "another_class"],
}
"""By what a method follows from, the changes that are not seen if it is not looked at."""


def test_single_steps_of_fit_give_their_program_back() -> None:
    """When calls ask for something else, and take it again when they ask for the same."""
    model, call = large(), {**OPTIONS, **ONE_STEP}
    for l2 in (0.0, 0.1, 0.0):
        for _ in range(one_step.TRAINED_BEFORE + 3):
            model.fit(X, Y, l2=l2, **call)
    kept = list(model.instances._free)
    assert len([key for key in kept if getattr(getattr(key, "recipe", None), "counts_nonfinite", False)]) == 1
    model.fit(OTHER[:9], Y[:9], **{**call, "batch_size": 9})
    kept = list(model.instances._free)
    assert len([key for key in kept if getattr(getattr(key, "recipe", None), "counts_nonfinite", False)]) == 2


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_storage_is_used_again_where_it_fits() -> None:
    """With the penalties of the call that uses it; the way back is of one method."""
    model, found = network(), []
    for options in ({}, {"l2": 0.1}, {"optimizer": "sgd"}, {"loss": "mean_squared_error"}):
        model.fit(X, Y, **OPTIONS, **options)
        found.append(last_method(model))
        assert found[-1]._storage["penalties"].tobytes() == found[-1].penalty_table.tobytes()
    assert len({id(each._storage) for each in found}) == 1
    assert len({id(each.undo) for each in found}) == len(found)
    model.freeze(0).fit(X, Y, **OPTIONS)
    assert last_method(model)._storage is not found[0]._storage, "the gradient of frozen parameters is 0 there"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("field", "name"), [(field, name) for field, names in FORGOTTEN.items() for name in names])
def test_a_field_that_is_forgotten_would_be_noticed(field: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    position = method.Asked._fields.index(field)

    def differs(a: method.Asked, b: method.Asked) -> bool:
        return tuple(a[:position] + a[position + 1 :]) != tuple(b[:position] + b[position + 1 :])

    expected = run(CHANGES[name], afresh=True)
    monkeypatch.setattr(method.Asked, "__ne__", differs)
    try:
        found = run(CHANGES[name], afresh=False)
    except Exception:  # arrays of another size, say, which is noticed as well
        return
    assert found != expected


def test_threads_are_those_of_the_call() -> None:
    """They change no bit: the programs say it."""
    model = network()
    for threads in (1, 2, None, 1):
        model.instances.clear()
        model.fit(X, Y, threads=3, **OPTIONS)
        model.fit(X, Y, threads=threads, **OPTIONS)
        asked = {key.threads for key in model.instances._free if hasattr(key, "threads")}
        assert asked == {3, threads}


class Halved(fastnn.Adam):
    """Adam at half of its rates: the same kernel with the same attributes, and other tables."""

    def scalars(self, steps: Any, rates: Any) -> Any:
        return super().scalars(steps, 0.5 * rates)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (fastnn.Adam(0.01), fastnn.Adam(0.02)),
        (fastnn.Adam(0.01), Halved(0.01)),
        (fastnn.NAdam(0.01), fastnn.NAdam(0.01, momentum_decay=0.5)),
        (fastnn.SGD(0.01), fastnn.SGD(schedules.Exponential(0.01, 0.5, per="step"))),
    ],
    ids=["rate", "class", "momentum_decay", "schedule"],
)
@pytest.mark.parametrize("jump", [False, True])
def test_tables_of_rates_ahead(first: Any, second: Any, jump: bool) -> None:
    """They are of the optimizer and the update that is asked for, not of the last call's."""
    found = []
    for afresh in (False, True):
        model = network()
        for optimizer in (first, first, second, first):
            if afresh:
                model.instances.clear()
            if jump and model.optimizer_state:
                model.set_optimizer_state({}, updates=3)
            model.fit(X, Y, optimizer=optimizer, **OPTIONS)
        found.append(state(model))
    assert found[0] == found[1]


@pytest.mark.parametrize("optimizer", [fastnn.Adam(0.01), fastnn.NAdam(0.01), fastnn.SGD(0.1)])
def test_rows_of_tables_are_those_of_the_optimizer(optimizer: Any) -> None:
    """Whatever was asked for before: other rates, later and earlier updates, more of them than are computed ahead."""
    model = network().build(5)
    loss = fastnn.losses.LOSSES["softmax_cross_entropy"]
    found = method.method_of(model, model.network, fastnn.engines.by_name("cpu"), loss, optimizer, 0.0, 0.0, None)
    for first, rates in [
        (1, [0.1]), (2, [0.1] * 3), (5, [0.2]), (6, [0.1]), (60, [0.1] * 9), (69, [0.1]), (3, [0.1]), (1, [0.1] * 200),
        (300, [0.1, 0.2]), (302, [0.1] * method.AHEAD), (303, [0.1] * method.AHEAD), (10**6, [0.0]),
    ]:  # fmt: skip
        expected = optimizer.scalars(np.arange(first, first + len(rates)), np.array(rates))
        assert found.scalars(optimizer, first, np.array(rates)).tobytes() == expected.tobytes()


# --- the way back -------------------------------------------------------------------------------------------------------

HUGE = (3e38 * RNG.choice([-1, 1], (24, 5))).astype(np.float32)


def snapshots(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A number for each snapshot that is made from now on."""
    made: list[int] = []
    snapshot = State.snapshot

    def counted(*arguments: Any) -> Any:
        made.append(len(made))
        return snapshot(*arguments)

    monkeypatch.setattr(State, "snapshot", counted)
    return made


def large() -> fastnn.Sequential:
    """One whose snapshot is larger than the mini-batches that are trained on."""
    hidden = [fastnn.Dense(units, activation="relu") for units in (40, 30)]
    return fastnn.Sequential([*hidden, fastnn.Dense(3)], seed=1)


def test_a_snapshot_serves_many_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    model, made = large(), snapshots(monkeypatch)
    calls = 0
    while calls * 6 < undo.LONGEST:
        model.fit(X, Y, **OPTIONS)  # six steps
        calls += 1
    made.clear()
    for _ in range(calls):
        model.fit(X, Y, **OPTIONS)
    assert 1 <= len(made) <= 2
    small = network()
    small.fit(X, Y, **OPTIONS)
    made.clear()
    for _ in range(4):
        small.fit(np.tile(X, (20, 1)), np.tile(Y, 20), **OPTIONS)
    assert len(made) >= 8, "rows that are larger than the model are not kept"


def test_rows_that_are_kept_are_no_more_than_the_model_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undo, "KEPT_BYTES", 0)
    model = network()
    for _ in range(4):
        model.fit(X, Y, **OPTIONS)
        kept = last_method(model).undo
        rows = sum(array.nbytes for chunk in kept.chunks for array in chunk.data.values())
        assert 0 < rows <= sum(array.nbytes for array in kept.snapshot.arrays.values())


BETWEEN: dict[str, Change] = {
    "nothing": lambda model, call: None,
    "weights": double_weights,
    "optimizer_state": double_state,
    "a_step": step_between,
    "another_batch_size": option(batch_size=7),
    "weights_of_examples": option(sample_weight=WEIGHTS),
    "another_rate": option(optimizer=fastnn.Adam(0.3)),
    "another_optimizer": option(optimizer=fastnn.SGD(0.3, momentum=0.9)),
    "frozen": lambda model, call: model.freeze(0),
    "bytes": option(X=(200 * X).astype(np.uint8)),
    "values": option(loss="mean_squared_error"),
    "own_order": option(order=lambda epoch: [3, 3, 1, 0, 20, 7]),
    "no_shuffle": option(shuffle=False),
    "held_back": option(validation_split=0.25),
    "predictions": lambda model, call: model.predict(X),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", BETWEEN)
@pytest.mark.parametrize("layers", ["plain", "with_state"])
def test_a_call_that_diverges_leaves_the_bits_before_it(name: str, layers: str) -> None:
    """After any calls, whether the steps of those are played again or a snapshot of the moment is put back."""
    model = large()
    if layers == "with_state":
        hidden = [fastnn.Dense(40), fastnn.BatchNorm(), fastnn.Dropout(0.3), fastnn.Dense(30, activation="tanh")]
        model = fastnn.Sequential([*hidden, fastnn.Dense(3)], seed=1)
    call: dict[str, Any] = {"X": X.copy(), "y": Y.copy(), "optimizer": fastnn.Adam(0.01), **OPTIONS}
    for _ in range(3):
        model.fit(**call)
    BETWEEN[name](model, call)
    for _ in range(2):
        model.fit(**call)
        before, step = state(model), model.counters.step
        call["X"][...] = 0  # what was trained on is the caller's again
        with pytest.raises(DivergenceError, match=f"after step {step}|step {step + 1}"):
            model.fit(**{**call, "X": HUGE, "validation_split": None, "order": None, "shuffle": True})
        assert state(model) == before
        call["X"] = (255 * OTHER).astype(call["X"].dtype) if call["X"].dtype == np.uint8 else OTHER.copy()


@pytest.mark.parametrize("call", [1, 2, 5])
def test_an_interrupted_step_is_undone(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = large()
    for _ in range(call):
        model.fit(X, Y, **OPTIONS)
    before = state(model)
    with monkeypatch.context() as patch:
        look = Trainer.look

        def interrupted(self: Trainer, count: int) -> Any:
            look(self, count)
            raise KeyboardInterrupt

        patch.setattr(Trainer, "look", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.fit(OTHER, Y, **OPTIONS)
    assert state(model) == before
    twin = large()
    for _ in range(call):
        twin.fit(X, Y, **OPTIONS)
    assert state(twin) == before
    for each in (model, twin):
        each.fit(X, Y, **OPTIONS)
    assert state(model) == state(twin)


@pytest.mark.parametrize("pressed", [{3}, {3, 6}, {3, 6, 9}])
def test_a_way_back_that_is_interrupted_leaves_whole_steps(pressed: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = large()
    for _ in range(4):
        model.fit(X, Y, **OPTIONS)
    with monkeypatch.context() as patch:
        again, calls = Trainer._play_again, 0

        def interrupted(self: Trainer, chunk: Any) -> None:
            nonlocal calls
            calls += 1
            if calls in pressed:
                raise KeyboardInterrupt
            again(self, chunk)

        patch.setattr(Trainer, "_play_again", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.fit(HUGE, Y, **OPTIONS)
    assert (model.counters.step == 24) == (len(pressed) < 3), "it begins again, twice"
    assert 0 < model.counters.step <= 24
    weights = model.weights
    assert all(np.isfinite(array).all() for array in weights.values())
    whole = large()
    for _ in range(model.counters.step // 6):
        whole.fit(X, Y, **OPTIONS)
    assert model.counters.step == whole.counters.step
    assert all(array.tobytes() == weights[name].tobytes() for name, array in whole.weights.items())
    before = state(model)
    with pytest.raises(DivergenceError):
        model.fit(HUGE, Y, **OPTIONS)
    assert state(model) == before


def test_what_a_loss_of_ones_own_closes_over_may_change() -> None:
    scale = [1.0]

    def loss(outputs: Any, targets: Any) -> Any:
        return fastnn.losses.LOSSES["quadratic"].function(outputs, targets) * scale[0]

    model = large()
    for turn in range(3):
        scale[0] = 1.0 + turn
        model.fit(X, Y, loss=loss, **OPTIONS)
    before = state(model)
    scale[0] = 5.0
    with pytest.raises(DivergenceError):
        model.fit(HUGE, Y, loss=loss, **OPTIONS)
    assert state(model) == before


def test_data_are_not_held() -> None:
    model = large()
    for _ in range(3):
        rows, targets, weights = X.copy(), Y.copy(), WEIGHTS.copy()
        left = [weakref.ref(array) for array in (rows, targets, weights)]
        model.fit(rows, targets, sample_weight=weights, **OPTIONS)
        model.fit(rows, targets, **OPTIONS)
        del rows, targets, weights
        assert [reference() for reference in left] == [None] * 3, "they go at once, without a collection"


def test_an_array_may_be_resized_between_two_calls() -> None:
    """Nothing of the library refers to it, not even weakly, which NumPy refuses."""
    model, rows = large(), X.copy()
    model.fit(rows, Y, **OPTIONS)
    rows.resize((12, 5))
    model.fit(rows, Y[:12], **OPTIONS)


def test_what_an_optimizer_kept_goes_with_it() -> None:
    model = large()
    model.fit(X, Y, optimizer="adam", **OPTIONS)
    left = weakref.ref(model.state.on(fastnn.engines.by_name("cpu"))["square"])
    model.fit(X, Y, optimizer=fastnn.Adam(), **OPTIONS)
    assert left() is not None
    with pytest.warns(UserWarning, match="cannot be used by SGD"):
        model.fit(X, Y, optimizer="sgd", **OPTIONS)
    gc.collect()
    assert left() is None


def test_arrays_that_somebody_holds_are_not_written_to_again() -> None:
    """Those of an optimizer before, whose places are others now."""
    found = []
    for holds in (False, True):
        model, held = large(), []
        with warnings.catch_warnings(action="ignore"):
            for optimizer in ("adam", "sgd", "adam", "adam"):
                model.fit(X, Y, optimizer=optimizer, **OPTIONS)
                held += [dict(model.state.on(fastnn.engines.by_name("cpu")))] if holds else []
        found.append(state(model))
    assert found[0] == found[1]
