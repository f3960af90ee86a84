"""Losses by name and by parameters: values and gradients against PyTorch, tasks, predictions, files, the command."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import fastnn
from fastnn import losses, ops
from fastnn.callbacks import Checkpoint
from fastnn.cli import main
from fastnn.data.targets import Task
from fastnn.errors import InputError, InputTypeError
from fastnn.losses import LOSSES, Loss, as_loss, find

FLOATS = ("float32", "float64")


def focal_of_the_paper(torch: Any, z: Any, t: Any, gamma: float, alpha: float | None) -> Any:
    """Equations 3 to 5 of Lin et al. 2017: p_t is p for a yes, 1 - p for a no; alpha_t is alpha, 1 - alpha."""
    p = torch.sigmoid(z)
    p_t = torch.where(t == 1, p, 1 - p)
    weight = 1.0 if alpha is None else alpha * t + (1 - alpha) * (1 - t)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(z, t, reduction="none")
    return (weight * (1 - p_t) ** gamma * cross_entropy).sum(1)


def expected_losses(torch: Any, loss: Loss, z: Any, t: Any) -> Any:
    """The losses (B,) by PyTorch, from tensors of float64."""
    functional = torch.nn.functional
    function: Any = loss.function
    name = loss.name.partition(":")[0]
    if name == "mean_absolute_error":
        return functional.l1_loss(z, t, reduction="none").mean(1)
    if name == "huber":
        return functional.huber_loss(z, t, reduction="none", delta=function.delta).mean(1)
    if name == "quantile":
        return torch.maximum(function.level * (t - z), (function.level - 1) * (t - z)).mean(1)
    if name == "poisson":
        return functional.poisson_nll_loss(z, t, log_input=True, full=False, reduction="none").mean(1)
    if name == "focal":
        return focal_of_the_paper(torch, z, t, function.gamma, function.alpha)
    assert name == "softmax_focal"
    chosen = torch.log_softmax(z, 1)[torch.arange(len(t)), t]
    return -((1 - chosen.exp()) ** function.gamma) * chosen


NEW = [
    as_loss("mean_absolute_error"), as_loss("huber"), losses.huber(delta=0.3), as_loss("quantile"), losses.quantile(level=0.9),
    as_loss("poisson"), as_loss("focal"), losses.focal(gamma=0.5, alpha=None), losses.focal(gamma=0.0, alpha=0.7),
    as_loss("softmax_focal"), losses.softmax_focal(gamma=0.5), losses.softmax_focal(gamma=0.0),
]  # fmt: skip


def examples(loss: Loss, rows: int, columns: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(rows * columns)
    z = 2 * rng.standard_normal((rows, columns))
    t = 2 * rng.standard_normal((rows, columns))
    if loss.link == "exp":
        t = rng.poisson(3.0, (rows, columns))
    if loss.link == "sigmoid":
        t = rng.integers(0, 2, (rows, columns))
    if loss.link == "softmax":
        return z.astype(dtype), rng.integers(0, columns, rows)
    if loss.link is None and rows:
        t[0, 0] = z[0, 0] = 0.5  # no error at all
    return z.astype(dtype), t.astype(dtype)


@pytest.mark.parametrize("device", [pytest.param("numpy", marks=pytest.mark.slow), "cpu"])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (1, 1), (31, 1), (33, 3), (1, 33)])
@pytest.mark.parametrize("loss", NEW, ids=lambda loss: loss.name)
def test_weighted_values_and_gradients_are_those_of_pytorch(
    loss: Loss, rows: int, columns: int, dtype: str, device: str
) -> None:
    torch = pytest.importorskip("torch")
    if loss.link == "softmax":
        columns += 1  # of one class there is nothing to learn
    z, t = examples(loss, rows, columns, dtype)
    w = np.random.default_rng(5).uniform(0, 2, rows).astype(dtype)
    recorded = fastnn.record(
        lambda z, t, w: ops.sum(ops.multiply(w, loss.function(z, t))),
        z=("B", columns), t=("B",) if t.ndim == 1 else ("B", columns), w=("B",), dtype=dtype, dtypes={"t": t.dtype},
        gradients="z",
    )  # fmt: skip
    got = recorded.run({"z": z, "t": t, "w": w}, device=device)
    leaf = torch.tensor(z.astype(np.float64), requires_grad=True)
    target = torch.tensor(t if t.dtype.kind == "i" else t.astype(np.float64))
    expected = expected_losses(torch, loss, leaf, target)
    total = (expected * torch.tensor(w.astype(np.float64))).sum()
    total.backward()
    limits = {"rtol": 2e-5, "atol": 2e-5} if dtype == "float32" else {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(loss.function(z, t), expected.detach(), **limits)
    np.testing.assert_allclose(got["value"], total.item(), **limits)
    np.testing.assert_allclose(got["d z"], leaf.grad, **limits)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("make", [losses.focal, losses.softmax_focal], ids=["sigmoid", "softmax"])
def test_focal_losses_of_logits_whose_probabilities_round_to_0_and_1_are_finite(make: Any, gamma: float) -> None:
    loss = make(gamma=gamma)
    z = np.array([[-200.0, 200.0], [200.0, -200.0], [0.0, 30.0], [1e4, -1e4]], np.float32)
    t = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    recorded = fastnn.record(lambda z, t: ops.sum(loss.function(z, t)), z=("B", 2), t=("B", 2), gradients="z")
    for name, values in recorded(z=z, t=t).items():
        assert np.isfinite(values).all(), name
    costs = loss.function(z, t)
    assert costs[0] > 10
    assert costs[1] == 0


def test_shares_cost_the_mean_of_yes_and_no() -> None:
    """A target of 0.25 is a yes in one of four cases."""
    z = np.array([[0.3], [-2.0]])
    yes, no = (losses.focal().function(z, np.full((2, 1), t)) for t in (1.0, 0.0))
    np.testing.assert_allclose(losses.focal().function(z, np.full((2, 1), 0.25)), 0.25 * yes + 0.75 * no, rtol=1e-14)


def test_the_pinball_loss_is_that_of_scikit_learn() -> None:
    theirs = pytest.importorskip("sklearn.metrics").mean_pinball_loss
    rng = np.random.default_rng(2)
    y, a, w = rng.standard_normal((31, 2)), rng.standard_normal((31, 2)), rng.uniform(0, 1, 31)
    ours = losses.quantile(level=0.8).function(a, y)
    assert np.average(ours, weights=w) == pytest.approx(theirs(y, a, sample_weight=w, alpha=0.8), rel=1e-13)


@pytest.mark.parametrize("name", ["mean_absolute_error", "huber", "quantile", "poisson", "focal"])
def test_targets_of_another_shape_are_refused_and_not_broadcast(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}: expected targets of shape \(5, 3\), got \(5,\)"):
        LOSSES[name].function(np.zeros((5, 3)), np.zeros(5))
    with pytest.raises(InputError, match=r"outputs \(B, O\) with two axes"):
        LOSSES[name].function(np.zeros(5), np.zeros(5))


# --- names and parameters -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_name_leads_to_its_loss_from_the_function_too(name: str) -> None:
    loss = as_loss(name)
    assert (loss.name, loss.built_in) == (name, True)
    assert as_loss(getattr(losses, name)) == loss
    assert as_loss(loss) is loss
    assert pickle.loads(pickle.dumps(loss)) == loss


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (losses.huber(), "huber"),
        (losses.huber(delta=1), "huber"),
        (losses.huber(delta=0.1), "huber:delta=0.1"),
        (losses.quantile(level=0.9), "quantile:level=0.9"),
        (losses.focal(alpha=None), "focal:alpha=none"),
        (losses.focal(gamma=1, alpha=0.5), "focal:gamma=1.0,alpha=0.5"),
        (losses.softmax_focal(gamma=1 / 3), f"softmax_focal:gamma={1 / 3!r}"),
    ],
)
def test_the_name_says_the_parameters_and_is_read_back(loss: Loss, name: str) -> None:
    assert loss.name == name
    assert find(name) == loss
    assert loss.built_in
    assert hash(loss) == hash(find(name))


def test_a_name_may_be_written_in_other_ways_than_ours() -> None:
    assert as_loss("focal: alpha = none, gamma=3") == losses.focal(gamma=3.0, alpha=None)
    assert as_loss("huber:delta=1e0") == as_loss("huber:") == as_loss("huber")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("huber:delta=0", r"Huber: delta: expected a finite number > 0, got 0\.0"),
        ("huber:delta=inf", "expected a finite number > 0, got inf"),
        ("huber:delta=two", "expected a finite number > 0, got 'two'"),
        ("huber:delta=none", "expected a finite number > 0, got None"),
        ("huber:dleta=2", r"huber has no 'dleta'; did you mean 'delta'\?"),
        ("huber:delta", "expected each number once"),
        ("quantile:level=1", "expected a finite number > 0 and < 1"),
        ("focal:alpha=1.5", "expected a finite number >= 0 and <= 1"),
        ("focal:gamma=-1", "expected a finite number >= 0"),
        ("quadratic:scale=2", "quadratic has no parameters"),
        ("hubert:delta=2", r"no loss is called 'hubert:delta=2'; did you mean 'huber'\?"),
    ],
)
def test_parameters_that_a_loss_cannot_have_are_refused(name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        as_loss(name)


def test_a_misspelled_parameter_is_answered_with_the_one_that_is_meant() -> None:
    with pytest.raises(InputTypeError, match=r"huber has no 'dleta'; did you mean 'delta'\?"):
        losses.huber(dleta=2.0)  # type: ignore[call-arg]


def test_a_loss_of_ones_own_cannot_have_the_name_of_one_of_the_library() -> None:
    with pytest.raises(InputError, match="your loss has the name of the library's focal"):
        as_loss(Loss("focal", lambda outputs, targets: ops.mean(outputs), "sigmoid"))


# --- training, predictions, files -----------------------------------------------------------------------------------


X = np.random.default_rng(0).standard_normal((200, 3))
COUNTS = np.random.default_rng(1).poisson(np.exp(0.5 + X @ [0.4, -0.3, 0.2]))
QUIET: dict[str, Any] = {"batch_size": "all", "verbose": 0}


def regression(loss: Any, y: Any, outputs: int = 1, epochs: int = 300, **options: Any) -> fastnn.Sequential:
    model = fastnn.Sequential([fastnn.Dense(outputs)], seed=0, dtype="float64")
    model.fit(X, y, loss=loss, optimizer=fastnn.Adam(0.05), epochs=epochs, **{**QUIET, **options})
    return model


def test_poisson_regression_finds_the_coefficients_of_scikit_learn_and_predicts_the_mean() -> None:
    theirs = pytest.importorskip("sklearn.linear_model").PoissonRegressor(alpha=0, tol=1e-10, max_iter=10_000)
    weights = np.random.default_rng(3).uniform(0.5, 2, len(X))
    theirs.fit(X, COUNTS, sample_weight=weights)
    model = regression("poisson", COUNTS, epochs=2000, sample_weight=weights)
    np.testing.assert_allclose(model.weights["0.weight"][:, 0], theirs.coef_, atol=1e-6)
    np.testing.assert_allclose(model.predict(X), theirs.predict(X), rtol=1e-6)
    np.testing.assert_allclose(model(X)[:, 0], np.log(theirs.predict(X)), atol=1e-6)


def test_predictions_metrics_and_validation_of_counts_are_of_the_mean() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    model = fastnn.Sequential([fastnn.Dense(1)], seed=0, dtype="float64")
    options: dict[str, Any] = {"optimizer": fastnn.Adam(0.05), "epochs": 3, "metrics": ["mse"], **QUIET}
    history = model.fit(X, COUNTS, loss="poisson", validation_data=(X, COUNTS), **options)
    measures = model.evaluate(X, COUNTS, metrics=["mse"])
    predicted = model.predict(X)
    assert predicted.shape == COUNTS.shape
    assert measures["mae"] == pytest.approx(metrics.mean_absolute_error(COUNTS, predicted), rel=1e-12)
    assert measures["r2"] == pytest.approx(metrics.r2_score(COUNTS, predicted), rel=1e-12)
    assert measures["mse"] == pytest.approx(metrics.mean_squared_error(COUNTS, predicted), rel=1e-12)
    assert measures["loss"] == pytest.approx(np.mean(predicted - COUNTS * np.log(predicted)), rel=1e-12)
    assert {name: history[f"val_{name}"][-1] for name in measures} == pytest.approx(measures, rel=1e-12)
    with pytest.raises(fastnn.errors.NotReadyError, match="the loss poisson makes no probabilities"):
        model.predict_proba(X)
    with pytest.raises(InputError, match="the metric log_loss takes probabilities, and the outputs are none"):
        model.evaluate(X, COUNTS, metrics=["log_loss"])


def test_counts_of_several_outputs() -> None:
    y = np.stack([COUNTS, COUNTS % 2], 1)
    model = regression("poisson", y, 2, epochs=5)
    assert model.predict(X).shape == y.shape
    assert (model.predict(X) > 0).all()


@pytest.mark.parametrize("y", [[0, 1, -1], [0.5, -0.1, 2.0]])
def test_counts_below_0_are_refused_where_they_are_trained_on_and_where_they_are_evaluated(y: Any) -> None:
    with pytest.raises(InputError, match=rf"y: poisson expects targets of at least 0, got {min(y):g} to {max(y):g}"):
        regression("poisson", y, epochs=1) if len(y) == len(X) else fastnn.Sequential([fastnn.Dense(1)]).fit(
            X[:3], y, loss="poisson"
        )
    model = regression("poisson", COUNTS, epochs=1)
    with pytest.raises(InputError, match="poisson expects targets of at least 0"):
        model.evaluate(X[:3], y)


def test_quantiles_and_medians_of_a_constant() -> None:
    """The best constant has the share `level` of the targets below it; that of the absolute error is the median."""
    y = np.random.default_rng(4).exponential(size=501)
    for loss, level in ((losses.quantile(level=0.9), 0.9), ("quantile", 0.5), ("mean_absolute_error", 0.5)):
        model = fastnn.Sequential([fastnn.Dense(1)], seed=0, dtype="float64")
        rate = fastnn.schedules.Exponential(0.1, base=0.995)
        model.fit(np.zeros((501, 1)), y, loss=loss, optimizer=fastnn.Adam(rate), epochs=1500, **QUIET)
        assert float(model.predict([[0.0]])[0]) == pytest.approx(np.quantile(y, level), abs=0.02)


@pytest.mark.parametrize("loss", ["mean_absolute_error", "huber", "quantile", "poisson"])
def test_losses_of_numbers_take_0_and_1_as_numbers_whatever_the_last_layer_is(loss: str) -> None:
    for y in (COUNTS % 2, np.eye(3, dtype=np.int64)[COUNTS % 3]):
        outputs = 1 if y.ndim == 1 else 3
        model = fastnn.Sequential([fastnn.Dense(outputs, activation="sigmoid")], seed=0)
        if loss == "poisson":
            model = fastnn.Sequential([fastnn.Dense(outputs)], seed=0)
        history = model.fit(X, y, loss=loss, epochs=1, validation_data=(X, y), **QUIET)
        assert model.task is not None
        assert (model.task.kind, model.task.classes) == ("values", None)
        assert sorted(history) == ["loss", "val_loss", "val_mae", "val_r2"]


def test_losses_of_numbers_refuse_labels() -> None:
    model = fastnn.Sequential([fastnn.Dense(3)], seed=0)
    with pytest.raises(InputError, match=r"y: huber compares numbers, expected shape \(n, 3\) for 3 outputs, got \(200,\)"):
        model.fit(X, COUNTS % 3, loss="huber")
    with pytest.raises(InputError, match=r"huber compares numbers, and classes=\[\.\.\.\] names labels"):
        fastnn.Sequential([fastnn.Dense(1)]).fit(X, COUNTS % 2, loss="huber", classes=[0, 1])
    model.fit(X, COUNTS % 3, epochs=1, verbose=0)
    with pytest.raises(InputError, match="huber compares numbers, and the model is trained for classes"):
        model.fit(X, np.zeros((200, 3)), loss="huber")


@pytest.mark.parametrize(("loss", "outputs", "kind"), [("focal", 1, "binary"), ("focal", 2, "multilabel"),
                                                        ("focal", 3, "classes"), ("softmax_focal", 3, "classes")])  # fmt: skip
def test_focal_losses_are_of_yes_and_no_and_of_classes(loss: str, outputs: int, kind: str) -> None:
    y: np.ndarray = {"binary": COUNTS > 1, "multilabel": np.stack([COUNTS > 1, X[:, 0] > 0], 1), "classes": COUNTS % 3}[kind]
    model = fastnn.Sequential([fastnn.Dense(outputs)], seed=0)
    model.fit(X, y, loss=loss, epochs=50, class_weight="balanced" if kind != "multilabel" else None, **QUIET)
    assert model.task is not None
    assert model.task.kind == kind
    predicted, shares = model.predict(X), model.predict_proba(X)
    assert model.evaluate(X, y)["accuracy"] == pytest.approx((predicted == y).mean(), abs=1e-6)
    logits = model(X)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) if loss == "softmax_focal" else 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(shares[:, -outputs:], expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [losses.huber(delta=0.25), losses.focal(gamma=0.5, alpha=None), "poisson"])
def test_the_loss_and_its_parameters_are_kept_in_files_and_pickles(loss: Any, tmp_path: Path) -> None:
    y = COUNTS > 1 if as_loss(loss).link == "sigmoid" else COUNTS
    model = regression(loss, y, epochs=2)
    model.save(tmp_path / "m.safetensors")
    for read in (fastnn.load(tmp_path / "m.safetensors"), pickle.loads(pickle.dumps(model))):
        assert read.task == model.task
        assert read.task.loss == as_loss(loss).name
        assert read.evaluate(X, y) == model.evaluate(X, y)
        assert read.predict(X).tolist() == model.predict(X).tolist()
        assert read.partial_fit(X, y)["loss"] == pytest.approx(model.evaluate(X, y)["loss"], rel=1e-12)


def test_a_run_is_resumed_with_the_same_parameters_only(tmp_path: Path) -> None:
    def trained(loss: Any, epochs: int, resume: bool = False, folder: Path = tmp_path) -> fastnn.Sequential:
        model = fastnn.Sequential([fastnn.Dense(1)], seed=0, dtype="float64")
        options: dict[str, Any] = {"callbacks": [Checkpoint(folder)], "resume": resume, **QUIET}
        model.fit(X, COUNTS, loss=loss, epochs=epochs, **options)
        return model

    trained(losses.huber(delta=0.5), 2)
    with pytest.raises(InputError, match=r"huber:delta=0\.5"):
        trained("huber", 4, resume=True)
    resumed = trained("huber:delta=0.5", 4, resume=True)
    whole = trained(losses.huber(delta=0.5), 4, folder=tmp_path / "whole")
    assert resumed.weights["0.weight"].tobytes() == whole.weights["0.weight"].tobytes()


def test_a_file_with_parameters_that_a_loss_cannot_have_is_refused() -> None:
    config = Task("huber:delta=2.0", "values").to_config()
    assert Task.from_config(config).loss == "huber:delta=2.0"
    with pytest.raises(InputError, match="expected a finite number > 0"):
        Task.from_config({**config, "loss": "huber:delta=-2.0"})


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_trains_with_a_loss_and_its_parameters(tmp_path: Path) -> None:
    table, file = tmp_path / "t.csv", tmp_path / "m.safetensors"
    table.write_text("a,b,count\n" + "".join(f"{a},{b},{n}\n" for (a, b, _), n in zip(X, COUNTS, strict=True)))
    train = ["train", str(table), "--target", "count", "--regression", "--epochs", "2", "--hidden", "none"]
    for text in ("poisson", "quantile:level=0.9"):
        ran = CliRunner().invoke(main, [*train, "--loss", text, "--save", str(file)], catch_exceptions=False)
        assert ran.exit_code == 0, ran.output
        assert text in ran.output
        model = fastnn.load(file)
        assert model.task is not None
        assert model.task.loss == text
    table.write_text("a,b,many\n" + "".join(f"{a},{b},{n > 1}\n" for (a, b, _), n in zip(X, COUNTS, strict=True)))
    classes = ["train", str(table), "--target", "many", "--epochs", "2", "--loss", "focal:gamma=1.0", "--save", str(file)]
    ran = CliRunner().invoke(main, classes, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    assert fastnn.load(file).predict_proba(X[:5, :2]).shape == (5, 2)
    assert fastnn.load(file).layout.outputs == (1,)
    for text, says in (("hubber", "did you mean 'huber'"), ("huber:delta=0", "expected a finite number > 0")):
        ran = CliRunner().invoke(main, [*train, "--loss", text])
        assert ran.exit_code == 2
        assert says in ran.output
