"""Bad input is refused by `fit`, `evaluate` and `predict` in the right words, and nothing is changed by what was refused."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn
from fastnn import engines
from fastnn.callbacks import Callback
from fastnn.errors import DeviceError, DivergenceError, FastnnError, FileError, InputError, InputTypeError, NotReadyError

N, FEATURES, CLASSES = 60, 5, 3
QUIET: Mapping[str, Any] = {"epochs": 2, "batch_size": 20, "device": "cpu", "verbose": 0}
KINDS = ("classifier", "regressor")


def data(kind: str = "classifier") -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    X = rng.standard_normal((N, FEATURES)).astype(np.float32)
    return (X, np.arange(N) % CLASSES) if kind == "classifier" else (X, X[:, :2].copy())


def options(kind: str) -> dict[str, Any]:
    return {**QUIET, "loss": "softmax_cross_entropy" if kind == "classifier" else "quadratic"}


def fresh(kind: str = "classifier") -> fastnn.Sequential:
    hidden = [fastnn.Dense(8), fastnn.BatchNorm(), fastnn.Activation("relu"), fastnn.Dropout(0.1)]
    return fastnn.Sequential([*hidden, fastnn.Dense(CLASSES if kind == "classifier" else 2)], seed=0)


def fitted(kind: str = "classifier") -> fastnn.Sequential:
    model = fresh(kind)
    model.fit(*data(kind), **options(kind))
    return model


@cache
def went_well(kind: str, state: str) -> dict[str, bytes]:
    """The weights after a good call, of a model that was never given anything else."""
    model = fitted(kind) if state == "fitted" else fresh(kind)
    model.fit(*data(kind), **options(kind))
    return bits(model.weights)


def bits(arrays: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


def everything(model: fastnn.Sequential) -> dict[str, Any]:
    """All that a model knows, in a form that can be compared."""
    state = model.optimizer_state
    return {
        "weights": bits(model.weights) if model.built else None,
        "task": model.task,
        "counters": (model.counters.step, model.counters.epoch),
        "optimizer": None if state is None else (state.optimizer, state.updates, bits(state.slots)),
        "trained": model.trained,
        "names": model.feature_names,
        "device": model.device,
    }


def contents(value: Any) -> Any:
    """What an argument holds: arrays by their bits and layout, all others as they are written."""
    if isinstance(value, np.ndarray):
        held = value.tolist() if value.dtype.hasobject else np.asarray(value).tobytes()
        return value.dtype.str, value.shape, value.strides, value.flags.writeable, repr(held) if value.dtype.hasobject else held
    return repr(value)


@dataclass(frozen=True)
class Bad:
    """What is given instead of the good arguments, and how it is refused. `of`: the models it is bad for."""

    name: str
    says: str
    X: Callable[[np.ndarray], Any] | None = None
    y: Callable[[np.ndarray], Any] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    kinds: tuple[str, ...] = KINDS
    states: tuple[str, ...] = ("fresh", "fitted")
    by: tuple[str, ...] = ("fit", "evaluate", "predict")
    error: type[Exception] | tuple[type[Exception], ...] = InputError


OfKind = partial(Bad, error=InputTypeError)


def put(value: Any, *places: tuple[int, ...], dtype: Any = None) -> Callable[[np.ndarray], np.ndarray]:
    """A copy with `value` in these places."""

    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(array.dtype if dtype is None else dtype)
        for place in places:
            array[place] = value
        return array

    return change


def structured(X: np.ndarray) -> np.ndarray:
    return np.zeros(len(X), [("a", "f4"), ("b", "f4")])


def masked(X: np.ndarray) -> np.ndarray:
    mask = np.zeros(X.shape, bool)
    mask[3, 1] = True
    return np.ma.MaskedArray(X, mask)


BAD_X = [
    Bad("one NaN", r"X: 1 values are NaN.* row 7, column 3; remove or replace", put(np.nan, (7, 3))),
    Bad("infinity", r"X: 2 values are .*infinite.* row 0, column 4;", put(np.inf, (0, 4), (59, 0))),
    Bad("minus infinity", r"X: 1 values are .*infinite.* row 59, column 4;", put(-np.inf, (59, 4))),
    Bad("a row of NaN", r"X: 5 values are NaN.* row 8, column 0;", put(np.nan, (8,))),
    Bad("NaN in float16", r"X: 1 values are NaN.* row 7, column 3;", put(np.nan, (7, 3), dtype="f2")),
    Bad("NaN in big-endian", r"X: 1 values are NaN.* row 7, column 3;", put(np.nan, (7, 3), dtype=">f8")),
    Bad("NaN in Fortran order", r"row 7, column 3;", lambda X: np.asfortranarray(put(np.nan, (7, 3))(X))),
    Bad("too large for float32", r"X: 2 values are .* row 7, column 3; .*is 1e\+39, too large for float32: scale the features, "
        r"or make the model with dtype='float64'", put(1e39, (7, 3), (59, 0), dtype="f8")),
    OfKind("objects", r"X: expected an array of numbers, got dtype object; .*astype\(float\)", lambda X: X.astype(object)),
    OfKind("strings", rf"X: .*dtype {np.dtype('U32')}; encode strings", lambda X: X.astype("U32")),
    OfKind("bytes", rf"X: .*dtype {re.escape(str(np.dtype('S32')))}; encode strings", lambda X: X.astype("S32")),
    OfKind("complex numbers", r"X: .*complex64; use X\.real", lambda X: X.astype("c8")),
    OfKind("dates", r"X: .*datetime64\[D\]; convert dates", lambda X: X.astype(int).astype("M8[D]")),
    OfKind("times", r"X: .*timedelta64\[s\]; convert times", lambda X: X.astype(int).astype("m8[s]")),
    OfKind("a structured array", r"X: .*structured_to_unstructured", structured),
    Bad("a ragged list", r"X: expected rows of one length, got row 59 of shape \(1,\), and row 0 of shape \(5,\)",
        lambda X: [*X[:-1].tolist(), [1.0]]),
    Bad("a number among rows", r"X: expected rows of one length, got row 1 of shape \(\), and", lambda X: (X[0].tolist(), 3.0)),
    OfKind("a text in a list", r"X: expected numbers, got 'a' in row 1, column 0;", lambda X: [[1.0] * 5, ["a"] + [1.0] * 4]),
    OfKind("None in a list", r"X: expected numbers, got None in row 0, column 1;", lambda X: [[1.0, None, 1.0, 1.0, 1.0]]),
    Bad("a list of one axis", r"X: .*got shape \(60,\); use \[X\] for one example", lambda X: X[:, 0].tolist()),
    OfKind("a dict", r"X: expected an array of numbers, got a dict", lambda X: {"a": 1}),
    OfKind("a string", r"X: expected an array of numbers, got a str", lambda X: "X"),
    OfKind("None", r"X: expected an array of numbers, got a NoneType", lambda X: None),
    Bad("a number", r"X: expected rows of features.* got shape \(\)", lambda X: 3.0),
    Bad("one axis", r"X: .*got shape \(60,\); use X\.reshape\(1, -1\) .* X\.reshape\(-1, 1\)", lambda X: X[:, 0]),
    Bad("masked values", r"X: 1 values are masked, the first in row 3, column 1; fill", masked),
    Bad("too few columns", r"X: expected shape \('n', 5\), got \(60, 4\)", lambda X: X[:, :4], states=("fitted",)),
    Bad("three axes", r"shape|Flatten", lambda X: X[:, :, None]),
    Bad("no columns", r"X?.*(0|no|at least).*", lambda X: X[:, :0]),
    Bad("no rows", r"X: expected at least one example, got none", lambda X: X[:0], lambda y: y[:0],
        by=("fit", "evaluate")),
    Bad("fewer rows than targets", r"y: expected one target for each of the 59 examples, got shape \(60", lambda X: X[:-1],
        by=("fit", "evaluate")),
]  # fmt: skip

SCORED = ("fit", "evaluate")
LABELS = {"kinds": ("classifier",), "by": SCORED}
VALUES = {"kinds": ("regressor",), "by": SCORED}
BAD_Y = [
    Bad("a label too many", r"y: expected the labels 0, 1, 2, got 3 in row 9 \(1 such in all\)|"
        r"y holds 4 different labels \(0, 1, 2, 3\), the last layer has 3 units: use Dense\(4\)", y=put(3, (9,)), **LABELS),
    Bad("a negative label", r"got -1 in row 9|holds 4 different labels \(-1, 0, 1, 2\)", y=put(-1, (9,)), **LABELS),
    Bad("labels never seen", r"expected the labels 0, 1, 2, got 'a' in row 0 \(60 such", y=lambda y: np.array(list("abc"))[y],
        states=("fitted",), **LABELS),
    OfKind("labels of two types", r"y: expected labels of one type.*got int in row 0 and str in row 4; convert",
        y=lambda y: [*y[:4].tolist(), "x", *y[5:].tolist()], **LABELS),
    Bad("a label of None", r"y: 2 labels are missing \(None or NaN\), the first in row 4; remove",
        y=put(None, (4,), (6,), dtype=object), **LABELS),
    Bad("a label of NaN", r"y: 1 labels are missing.* row 4;", y=put(np.nan, (4,), dtype="f8"), **LABELS),
    Bad("a label between", r"class indices|got 0.5 in row 4", y=put(0.5, (4,), dtype="f8"), **LABELS),
    Bad("one class", r"y holds one class only \(2\).*classes=\[", y=lambda y: np.full_like(y, 2), states=("fresh",),
        kinds=("classifier",), by=("fit",)),
    OfKind("complex labels", r"y: expected numbers or labels.*got dtype complex", y=lambda y: y.astype(complex), by=SCORED),
    OfKind("dates as labels", r"y: expected numbers or labels.*got dtype datetime", y=lambda y: y.astype(int).astype("M8[D]"),
        by=SCORED),
    OfKind("a structured y", r"y: expected numbers or labels", y=structured, by=SCORED),
    OfKind("a dict as y", r"y: expected numbers or labels.*a dict", y=lambda y: {"a": 1}, by=SCORED),
    OfKind("bytes", r"y: expected strings, got bytes; convert", y=lambda y: y.astype("S9"), by=SCORED),
    Bad("ragged rows", r"y: expected .*(rows of one length|list in row 0)", error=(InputError, InputTypeError), by=SCORED,
        y=lambda y: [[1.0], *([[1.0, 2.0]] * (N - 1))]),
    Bad("rows that add up to 3", r"y: expected one-hot rows.*row 0 adds up to 3", y=lambda y: np.ones((N, 3)), **LABELS),
    Bad("a share below 0", r"y: expected one-hot rows.*row 2 .*least is -1", y=lambda y: put((2, -1, 0), (2,))(np.eye(3)[y]),
        **LABELS),
    Bad("rows too wide", r"y: expected shape \(n, [32]\), got \(60, 4\)", y=lambda y: np.ones((N, 4)), by=SCORED),
    Bad("a column of labels", r"y: expected shape \(n, 3\), got \(60, 1\); labels are 1-D: use y\.ravel\(\)",
        y=lambda y: y[:, None], **LABELS),
    Bad("too few targets", r"y: expected one target for each of the 60 examples, got shape \(59",
        y=lambda y: y[:-1], by=SCORED),
    Bad("no targets", r"y: expected one target for each of the 60 examples, got shape \(0", y=lambda y: y[:0], by=SCORED),
    Bad("one number for all", r"y: expected one target for each of the 60", y=lambda y: 3.0, by=SCORED),
    Bad("NaN targets", r"y: 2 values are NaN.*row 7, column 1, is NaN", y=put(np.nan, (7, 1), (9, 0)), **VALUES),
    Bad("infinite targets", r"y: 1 values .*row 59, column 0, is NaN or infinite", y=put(-np.inf, (59, 0)), **VALUES),
    Bad("targets too large", r"y: 1 values .*row 7, column 0, is too large for float32", y=put(1e39, (7, 0), dtype="f8"),
        **VALUES),
    OfKind("strings for numbers", r"y: expected numbers, got labels such as", y=lambda y: y.astype(str), **VALUES),
    Bad("no y", r"y", y=lambda y: None, by=("fit",)),
    Bad("NaN weight", r"sample_weight: .*got nan in row 5 \(1 such", more={"sample_weight": put(np.nan, (5,))(np.ones(N))},
        by=SCORED),
    Bad("infinite weight", r"sample_weight: .*got inf in row 5", more={"sample_weight": put(np.inf, (5,))(np.ones(N))},
        by=SCORED),
    Bad("negative weight", r"sample_weight: .*at least 0, got -1.0 in row 5 \(2 such",
        more={"sample_weight": put(-1, (5,), (8,))(np.ones(N))}, by=SCORED),
    Bad("weights of nothing", r"the weights add up to 0", more={"sample_weight": np.zeros(N)}, by=SCORED),
    Bad("weights too large", r"weights are too large for float32.*1e\+39", more={"sample_weight": np.full(N, 1e39)}, by=SCORED),
    Bad("too few weights", r"sample_weight: expected 60 numbers, got float64 of shape \(59,\)",
        more={"sample_weight": np.ones(N - 1)}, by=SCORED),
    Bad("a column of weights", r"use sample_weight\.ravel\(\)", more={"sample_weight": np.ones((N, 1))}, by=SCORED),
    Bad("weights of text", rf"sample_weight: expected 60 numbers, got {np.dtype('U1')}",
        more={"sample_weight": np.full(N, "a")}, by=SCORED),
    Bad("weights of objects", r"sample_weight: expected 60 numbers, got object",
        more={"sample_weight": np.ones(N).astype(object)}, by=SCORED),
    Bad("an unknown class", r"class_weight: 7 is none of the labels; known are 0, 1, 2", more={"class_weight": {7: 1.0}},
        kinds=("classifier",), by=("fit",)),
    Bad("a class of negative weight", r"class_weight: .*got -1.0 for 0", more={"class_weight": {0: -1.0}},
        kinds=("classifier",), by=("fit",)),
    Bad("classes of no weight", r"add up to 0", more={"class_weight": dict.fromkeys(range(CLASSES), 0.0)},
        kinds=("classifier",), by=("fit",)),
    Bad("class_weight of values", r"class_weight: only a task with classes", more={"class_weight": "balanced"},
        kinds=("regressor",), by=("fit",)),
]  # fmt: skip

ONCE: dict[str, Any] = {"kinds": ("classifier",), "by": ("fit",)}


def option(name: str, value: Any, says: str = "", error: Any = InputError) -> Bad:
    shown = re.sub(" at 0x[0-9a-f]+", "", repr(value))
    return Bad(f"{name}={shown}", says or rf"{name}: expected", more={name: value}, error=error, **ONCE)


BAD_OPTIONS = [
    *(option("batch_size", v, r'batch_size: .*>= 1, "auto" or "all", got ') for v in (0, -1, 1.5, True, "x", None)),
    option("batch_size", 1, r"batch norm.*use batch_size >= 2"),
    *(option("epochs", v, r"epochs: .*>= 0, got ") for v in (-1, 1.5, True, "x", None)),
    *(option(name, v) for name in ("l1", "l2") for v in (-1.0, np.nan, np.inf)),
    option("l2", "x", "l2|number", (InputError, InputTypeError)),
    *(option("threads", v, "threads") for v in (0, -1, 1.5)),
    option("shard_rows", 0),
    option("steps_per_epoch", 3, "steps_per_epoch: "),
    option("loss", "softmax_crossentropy", "no loss is called 'softmax_crossentropy'; did you mean 'softmax_cross_entropy'"),
    option("loss", 3, "expected the name of a loss", InputTypeError),
    option("loss", lambda z, t: z - t, "one loss an example"),
    option("optimizer", "adma", "'adma'.*'adam'"),
    option("optimizer", 3, r"optimizer: expected one such as fastnn\.Adam\(\), got int", InputTypeError),
    option("metrics", ["accurracy"], "'accurracy'.*'accuracy'"),
    option("device", "cdua", "no device is called 'cdua'; did you mean 'cuda'"),
    option("device", None, "no device is called None"),
    option("precision", "flaot32", "no precision is called 'flaot32'; did you mean 'float32'"),
    option("callbacks", [object()], "callbacks: expected fastnn.callbacks.Callback objects, got object", InputTypeError),
    option("classes", ["a", "b"], "classes: .*"),
    option("classes", [0, 1, 1], "classes: .*1 twice"),
    option("validation_data", data()[0], r"validation_data: expected a pair \(X, y\)"),
    option("validation_data", (*data(), None, None), r"validation_data: expected a pair \(X, y\), or \(X, y, weights\)"),
    option("validation_data", (*data(), np.ones(59)), r"validation sample_weight: expected 60 numbers, got float64 of shape"),
    option("validation_data", (*data(), np.full(60, -1)), r"validation sample_weight: expected finite numbers.*row 0 \(60"),
    option("validation_data", (*data(), np.zeros(60)), r"validation weights add up to 0"),
    option("validation_data", (data()[0][:, :4], data()[1]), r"validation X: expected shape \('n', 5\), got \(60, 4\)"),
    option("validation_data", (put(np.nan, (7, 3))(data()[0]), data()[1]), r"validation X: 1 values are NaN.*row 7, column 3"),
    option("validation_data", (data()[0], data()[1] + 1), r"validation y: expected the labels 0, 1, 2, got 3 in row 2 \(20"),
    option("validation_data", (data()[0][:0], data()[1][:0]), r"validation X: expected at least one example"),
    option("resume", "no/such/file", "no/such/file", (InputError, FileError)),
]  # fmt: skip

BAD = [*BAD_X, *BAD_Y, *BAD_OPTIONS]


def laws() -> Iterator[Any]:
    """Every day each with one kind of model, in turn; the other kind is slow."""
    for number, bad in enumerate(BAD):
        for turn, kind in enumerate(bad.kinds if bad.y or bad.more else bad.kinds[:1]):  # X is read alike for all
            marks = pytest.mark.slow if len(bad.kinds) > 1 and (bad.y or bad.more) and (number + turn) % 2 else ()
            for state in bad.states:
                for by in bad.by if state == "fitted" else ["fit"] if "fit" in bad.by else []:
                    yield pytest.param(bad, kind, state, by, marks=marks, id=f"{bad.name}-{kind}-{state}-{by}")


@pytest.mark.parametrize(("bad", "kind", "state", "by"), list(laws()))
def test_what_is_refused_changes_nothing(bad: Bad, kind: str, state: str, by: str) -> None:
    X, y = data(kind)
    model = fitted(kind) if state == "fitted" else fresh(kind)
    before = everything(model)
    given = bad.X(X) if bad.X else X, bad.y(y) if bad.y else y
    arguments = {**(options(kind) if by == "fit" else {}), **bad.more}
    held = contents(given[0]), contents(given[1]), {name: contents(value) for name, value in arguments.items()}
    with pytest.raises(FastnnError, match=bad.says) as caught:
        model.predict(given[0]) if by == "predict" else getattr(model, by)(*given, **arguments)
    assert isinstance(caught.value, bad.error), type(caught.value)
    assert "\n" not in str(caught.value)
    assert everything(model) == before
    assert model.built == (state == "fitted")
    after = contents(given[0]), contents(given[1]), {name: contents(value) for name, value in arguments.items()}
    assert after == held, "what the caller gave was changed"
    model.fit(X, y, **options(kind))
    assert bits(model.weights) == went_well(kind, state)
    assert all(np.isfinite(value) for value in model.evaluate(X, y).values())
    assert len(model.predict(X)) == N


@pytest.mark.parametrize("state", ["fitted", "built"])
@pytest.mark.parametrize(
    ("name", "value", "error", "says"),
    [
        ("0.weight", np.full((FEATURES, 8), np.nan, "f4"), InputError, r"0\.weight: 40 values are NaN or infinite"),
        ("4.bias", np.array([1, np.inf, 0], "f4"), InputError, r"4\.bias: 1 values are NaN or infinite"),
        ("1.running_variance", np.full(8, np.nan, "f4"), InputError, r"1\.running_variance: 8 values"),
        ("0.weight", np.zeros((8, FEATURES), "f4"), InputError, r"0\.weight: expected shape \(5, 8\), got \(8, 5\)"),
        ("0.weight", np.zeros((FEATURES, 8)), InputTypeError, r"0\.weight: expected float32, got float64; convert"),
        ("0.weight", np.zeros((FEATURES, 8), object), InputTypeError, r"0\.weight: expected float32, got object"),
        ("0.weight", "x", InputError, r"0\.weight: expected shape"),
        ("0.weigth", np.zeros((FEATURES, 8), "f4"), InputError, r"no '0\.weigth'; did you mean '0\.weight'"),
        (0, np.zeros((FEATURES, 8), "f4"), InputError, r"no 0"),
    ],
)
def test_weights_that_cannot_be_set_change_nothing(name: Any, value: Any, error: type, says: str, state: str) -> None:
    model = fitted() if state == "fitted" else fresh().build(FEATURES)
    before = everything(model)
    good = {"4.weight": np.zeros((8, CLASSES), "f4"), "1.gamma": np.zeros(8, "f4")}
    with pytest.raises(error, match=says):
        model.set_weights({**good, name: value})
    assert everything(model) == before
    with pytest.raises(InputTypeError, match="expected a dict of arrays by name, got list"):
        model.set_weights([value])  # type: ignore[arg-type]
    model.set_weights(good)
    assert not model.weights["4.weight"].any()


# --- what is accepted -----------------------------------------------------------------------------------------------


def mapped(array: np.ndarray, folder: Path) -> np.ndarray:
    np.save(folder / "array.npy", array)
    found: np.ndarray = np.load(folder / "array.npy", mmap_mode="r")
    return found


def unaligned(array: np.ndarray) -> np.ndarray:
    room = np.zeros(array.nbytes + 1, np.uint8)
    found = room[1:].view(array.dtype).reshape(array.shape)
    found[...] = array
    return found


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS: dict[str, Callable[[np.ndarray, Path], np.ndarray]] = {
    "strided": lambda a, _: np.repeat(a, 2, axis=0)[::2],
    "backwards": lambda a, _: a[::-1].copy()[::-1],
    "part of wider rows": lambda a, _: np.stack([a, a], axis=1)[:, 0],
    "Fortran": lambda a, _: np.asfortranarray(a),
    "read-only": lambda a, _: read_only(a),
    "big-endian": lambda a, _: a.astype(a.dtype.newbyteorder(">")),
    "memory map": mapped,
    "memory map of big-endian": lambda a, folder: mapped(a.astype(a.dtype.newbyteorder(">")), folder),
    "unaligned": lambda a, _: unaligned(a),
    "subclass": lambda a, _: np.ma.MaskedArray(a),
}  # fmt: skip


@pytest.mark.parametrize("which", ["X", "y", "weights"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_bits_of_the_plain_array(layout: str, kind: str, which: str, tmp_path: Path) -> None:
    X, y = data(kind)
    plain = {"X": X, "y": y, "weights": np.linspace(0.5, 2.0, N).astype("f4")}
    given = {**plain, which: LAYOUTS[layout](plain[which], tmp_path)}
    held = contents(given[which])
    found = []
    for arrays in (plain, given):
        model = fresh(kind)
        model.fit(arrays["X"], arrays["y"], sample_weight=arrays["weights"], **options(kind))
        scores = model.evaluate(arrays["X"], arrays["y"], sample_weight=arrays["weights"])
        found.append((everything(model), scores, model.predict(arrays["X"]).tobytes()))
    assert found[0] == found[1]
    assert contents(given[which]) == held


@pytest.mark.parametrize("n", [2, 3, N])
def test_a_batch_of_more_than_all_examples_is_one_of_all_with_one_warning(n: int) -> None:
    X, y = data()
    X, y = X[:n], y[:n]
    models = [fresh(), fresh()]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        models[0].fit(X, y, classes=[0, 1, 2], **{**QUIET, "batch_size": n + 1})
    assert [(w.category, str(w.message)) for w in caught] == [
        (UserWarning, f"batch_size {n + 1} is more than the {n} examples; {n} is used")
    ]
    assert caught[0].filename == __file__, "the warning points to the caller"
    models[1].fit(X, y, classes=[0, 1, 2], **{**QUIET, "batch_size": n})
    assert everything(models[0]) == everything(models[1])
    assert models[0].counters.step == QUIET["epochs"]


def test_no_epochs_make_a_model_that_knows_its_task() -> None:
    X, y = data()
    model = fresh()
    model.fit(X, y, **{**QUIET, "epochs": 0})
    assert model.counters.step == 0
    assert set(model.predict(X).tolist()) <= {0, 1, 2}


def test_columns_that_never_change() -> None:
    X, y = data()
    X = X.copy()
    X[:, 2] = 1e6
    with pytest.warns(UserWarning, match=r"a column that never changes \(2\): the deviation counts as 1") as caught:
        standardizer = fastnn.Standardizer().fit(X)
    assert len(caught) == 1
    assert not standardizer.transform(X)[:, 2].any()
    for layers in ([standardizer, fastnn.Dense(3)], [fastnn.BatchNorm(), fastnn.Dense(3)]):
        model = fastnn.Sequential(layers, seed=0)
        history = model.fit(X, y, **QUIET)
        assert np.isfinite(history["loss"]).all()
        assert all(np.isfinite(array).all() for array in model.weights.values())
        assert np.isfinite(model(X)).all()
        assert np.isfinite(model.evaluate(X, y)["loss"])
    model = fresh()
    model.fit(np.ones_like(X), y, **QUIET)  # batch norm of rows that are all alike
    assert all(np.isfinite(array).all() for array in model.weights.values())


def test_a_loss_that_compares_each_example_with_every_other_is_refused() -> None:
    """NumPy makes (B, B) of a column (B, 1) and a row (B,), whose mean is a number like any other."""
    X, y = data("regressor")
    model = fastnn.Sequential([fastnn.Dense(1)], seed=0)

    def mistaken(outputs: Any, targets: Any) -> Any:
        errors = outputs - fastnn.ops.reshape(targets, (targets.shape[0],))
        return fastnn.ops.mean(errors * errors)

    with pytest.raises(InputError, match=r"subtract: shapes \(B, 1\) and \(B,\) would make \(B, B\).*reshape"):
        model.fit(X, y[:, :1], loss=mistaken, **QUIET)

    def meant(outputs: Any, targets: Any) -> Any:
        errors = fastnn.ops.reshape(outputs, (outputs.shape[0],)) - fastnn.ops.reshape(targets, (targets.shape[0],))
        return fastnn.ops.mean(errors * errors)

    found = model.fit(X, y[:, :1], loss=meant, **QUIET)["loss"]
    assert found == fastnn.Sequential([fastnn.Dense(1)], seed=0).fit(X, y[:, :1], loss="mean_squared_error", **QUIET)["loss"]


# --- numbers that grow ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e4, 1e30, 1e37, 1e38])
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "sigmoid_cross_entropy"])
def test_logits_of_any_size_have_the_right_loss(loss: str, size: float) -> None:
    model = fastnn.Sequential([fastnn.Dense(3)], seed=0).build(3)
    logits = np.float32(size) * np.array([[1, -1, 0], [-1, 1, 0], [0, 0, -1]], np.float32)
    model.set_weights({"0.weight": logits, "0.bias": np.zeros(3, "f4")})
    X, y = np.eye(3, dtype="f4")[[0, 0, 1, 2]], np.array([0, 1, 2, 0])
    z, t = X.astype(np.float64) @ logits.astype(np.float64), np.eye(3)[y]
    if loss == "softmax_cross_entropy":
        top = z.max(1, keepdims=True)
        each = (top[:, 0] + np.log(np.exp(z - top).sum(1))) - (t * z).sum(1)
    else:
        each = (np.maximum(z, 0) - t * z + np.log1p(np.exp(-np.abs(z)))).sum(1)
    found = model.evaluate(X, y if loss == "softmax_cross_entropy" else t.astype(bool), loss=loss)["loss"]
    assert found == pytest.approx(each.mean(), rel=1e-5)


@pytest.mark.parametrize("state", ["fresh", "fitted"])
@pytest.mark.parametrize(
    "optimizer", [fastnn.SGD(1e6), fastnn.Momentum(1e6), fastnn.Adam(1e20)], ids=lambda o: type(o).__name__
)
def test_a_rate_that_diverges_leaves_the_last_finite_step(optimizer: Any, state: str) -> None:
    X, y = data("regressor")
    model = fastnn.Sequential([fastnn.Dense(8, activation="relu"), fastnn.Dense(2)], seed=0)
    if state == "fitted":
        model.fit(X, y, optimizer=type(optimizer)(1e-3), **options("regressor"))
    before = model.counters.step
    steps = {**options("regressor"), "epochs": 50}
    with pytest.raises(DivergenceError, match=r"epoch (\d+), step (\d+): .+ of \w+ became NaN.*Lower") as caught:
        model.fit(X, y, optimizer=optimizer, **steps)
    assert f"step {model.counters.step + 1}:" in str(caught.value)
    assert model.counters.step >= before
    known = model.optimizer_state
    assert known is not None
    assert known.updates == model.counters.step
    for array in (*model.weights.values(), *known.slots.values()):
        assert np.isfinite(array).all()
    model.set_weights({name: np.clip(array, -1, 1) for name, array in model.weights.items()})
    with pytest.warns(UserWarning, match="from a fresh state"):  # moments as large as the steps were would continue to spoil it
        losses = model.fit(X, y, optimizer=fastnn.RMSprop(1e-3), **steps)["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


# --- names, devices, threads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: fastnn.Dense(3, activation="rleu"), "'rleu'.*did you mean 'relu'"),
        (lambda: fastnn.Activation("sigmiod"), "'sigmiod'.*did you mean 'sigmoid'"),
        (lambda: fastnn.Dense(3, weight_init="glorot_unifrom"), "'glorot_unifrom'.*did you mean 'glorot_uniform'"),
        (lambda: fastnn.Sequential([fastnn.Dense(3)], dtype="flaot32"), "dtype: expected float32 or float64, got 'flaot32'"),
        (lambda: fitted().to("cdua"), "'cdua'.*did you mean 'cuda'"),
        (lambda: fitted().evaluate(*data(), metrics=["accurracy"]), "'accurracy'.*did you mean 'accuracy'"),
        (lambda: fitted().evaluate(*data(), loss="softmax_cross_entrpy"), "did you mean 'softmax_cross_entropy'"),
        (lambda: fresh().build(FEATURES).program(loss="quadratik"), "did you mean 'quadratic'"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(FastnnError, match=says):
        make()


def test_a_gpu_that_is_not_here_is_answered_with_what_to_install() -> None:
    try:
        engines.gpu(0)
    except DeviceError:
        pass
    else:
        pytest.skip("there is a GPU here")
    model = fresh()
    with pytest.raises(DeviceError) as caught:
        model.fit(*data(), **{**QUIET, "device": "cuda"})
    said = str(caught.value)
    assert "\n" not in said
    assert "pip install" in said or "driver" in said, said
    assert not model.built
    model.fit(*data(), **options("classifier"))
    assert bits(model.weights) == went_well("classifier", "fresh")


@pytest.mark.parametrize("where", ["the same thread", "another thread"])
def test_a_model_is_trained_by_one_call_at_a_time(where: str) -> None:
    X, y = data()
    refused: list[BaseException] = []

    def intrude(model: fastnn.Sequential) -> None:
        try:
            model.fit(X, y, **QUIET)
        except BaseException as error:
            refused.append(error)

    class Meanwhile(Callback):
        def epoch_end(self, run: Any, epoch: int, values: Any) -> None:
            if where == "the same thread":
                return intrude(run.model)
            other = threading.Thread(target=intrude, args=(run.model,))
            other.start()
            return other.join()

    model = fresh()
    model.fit(X, y, callbacks=[Meanwhile()], **options("classifier"))
    assert [type(error) for error in refused] == [NotReadyError] * QUIET["epochs"]
    assert "being trained already" in str(refused[0])
    assert bits(model.weights) == bits(fitted().weights)
    model.fit(X, y, **options("classifier"))
    assert bits(model.weights) == went_well("classifier", "fitted")


def test_a_call_that_fails_before_its_first_step_leaves_no_program_of_its_inputs() -> None:
    """The programs that it made were for inputs of another shape."""

    class Negative(fastnn.schedules.Schedule):
        def _rates(self, steps: Any, steps_per_epoch: int, total_steps: int) -> Any:
            return np.full(len(steps), -1.0)

    X, y = data()
    model = fresh()
    with pytest.raises(InputError, match="rate"):
        model.fit(X, y, **options("classifier"), optimizer=fastnn.SGD(Negative()))
    assert not model.built
    twin = fresh()
    for each in (model, twin):
        each.fit(X[:, :2], y, **options("classifier"), optimizer=fastnn.SGD(0.1))
    assert bits(model.weights) == bits(twin.weights)
