"""`fit(label_smoothing=...)`: the losses of PyTorch and Keras, in training, validation and evaluation, and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainings import blobs, classifier, digest

import fastnn
from fastnn import ops
from fastnn.callbacks import Checkpoint
from fastnn.errors import InputError
from fastnn.losses import LOSSES, Loss, as_loss, mean_loss
from fastnn.program.differentiate import gradients
from fastnn.program.passes.fuse import fuse
from fastnn.program.trace import Trace
from fastnn.tuning import train_together

N, CLASSES = 90, 3
ALL: dict[str, Any] = {"batch_size": "all", "epochs": 1, "verbose": 0}
OPTIONS: dict[str, Any] = {"batch_size": 32, "epochs": 3, "verbose": 0}
KINDS = ["indices", "one-hot", "shares", "yeses", "yes or no"]


def problem(kind: str) -> tuple[np.ndarray, np.ndarray, str]:
    X, labels = blobs(N, CLASSES, "float64")
    shares = np.random.default_rng(2).dirichlet(np.ones(CLASSES), N)
    y = {
        "indices": labels, "one-hot": np.eye(CLASSES)[labels], "shares": shares,
        "yeses": (shares > 0.3).astype(float), "yes or no": labels % 2,
    }[kind]  # fmt: skip
    return X, y, "sigmoid_cross_entropy" if kind.startswith("yes") else "softmax_cross_entropy"


def linear(kind: str, dtype: str = "float64") -> fastnn.Sequential:
    return fastnn.Sequential([fastnn.Dense(1 if kind == "yes or no" else CLASSES)], seed=5, dtype=dtype)


def of_torch(z: Any, y: np.ndarray, loss: str, s: float) -> Any:
    """One loss an example: those of PyTorch, and of Keras's BinaryCrossentropy, summed over the outputs."""
    torch = pytest.importorskip("torch")
    z = torch.as_tensor(z)
    if loss == "softmax_cross_entropy":
        target = torch.tensor(y) if y.ndim == 2 else torch.tensor(y, dtype=torch.int64)
        return torch.nn.CrossEntropyLoss(label_smoothing=s, reduction="none")(z, target)
    target = torch.tensor(y.reshape(len(y), -1), dtype=z.dtype) * (1 - s) + 0.5 * s
    return torch.nn.BCEWithLogitsLoss(reduction="none")(z, target).sum(dim=1)


@pytest.mark.parametrize("device", ["cpu", "numpy"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("s", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_are_those_of_pytorch(kind: str, s: float, weighted: bool, device: str) -> None:
    torch = pytest.importorskip("torch")
    X, y, loss = problem(kind)
    weights = np.random.default_rng(3).uniform(0.1, 2, N) if weighted else None
    model = linear(kind).build(X.shape[1])
    before = model.weights
    history = model.fit(
        X, y, loss=loss, label_smoothing=s, optimizer=fastnn.SGD(1.0), sample_weight=weights, device=device, **ALL
    )
    w, b = (torch.tensor(before[name], requires_grad=True) for name in ("0.weight", "0.bias"))
    each = of_torch(torch.tensor(X) @ w + b, y, loss, s)
    factors = torch.tensor(np.ones(N) if weights is None else weights)
    mean = (each * factors).sum() / factors.sum()
    mean.backward()
    assert history["loss"][0] == pytest.approx(mean.item(), rel=1e-12)
    for name, parameter in (("0.weight", w), ("0.bias", b)):
        np.testing.assert_allclose(before[name] - model.weights[name], parameter.grad.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_in_float32(kind: str) -> None:
    X, y, loss = problem(kind)
    model = linear(kind, "float32").build(X.shape[1])
    z = model(X)
    expected = of_torch(z, y, loss, 0.2).mean().item()
    smoothed = as_loss(f"{loss}:label_smoothing=0.2")
    assert model.evaluate(X, y, loss=smoothed)["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_differences(kind: str) -> None:
    X, y, loss = problem(kind)
    assert fastnn.check_gradients(linear(kind), X[:8], y[:8], loss=as_loss(f"{loss}:label_smoothing=0.3")).passed


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "sigmoid_cross_entropy"])
def test_eager_and_recorded_losses_agree(loss: str) -> None:
    rng = np.random.default_rng(0)
    z, t = rng.standard_normal((7, 4)), np.eye(4)[rng.integers(0, 4, 7)]
    smoothed = as_loss(f"{loss}:label_smoothing=0.1")
    expected = of_torch(z, t, loss, 0.1).numpy()
    np.testing.assert_allclose(smoothed.function(z, t), expected, rtol=1e-12)
    np.testing.assert_allclose(LOSSES[loss].function(z, t), of_torch(z, t, loss, 0.0).numpy(), rtol=1e-12)


def test_the_loss_is_fused_with_its_gradient_as_without_smoothing() -> None:
    X, _ = blobs(N)
    model = classifier().build(X.shape[1])
    smoothed = as_loss("softmax_cross_entropy:label_smoothing=0.1")
    kernels = [str(model.program(32, loss=smoothed, fused=fused)) for fused in (True, False)]
    assert "softmax_cross_entropy_with_gradient" in kernels[0]
    assert "softmax_cross_entropy_with_gradient" not in kernels[1]


@pytest.mark.parametrize("kind", KINDS)
def test_fused_and_unfused_losses_have_the_same_bits(kind: str) -> None:
    X, y, loss = problem(kind)
    smoothed, t = as_loss(f"{loss}:label_smoothing=0.2"), y.reshape(N, -1) if kind == "yes or no" else y

    def gradient(fused: bool) -> bytes:
        model = linear(kind).build(X.shape[1])
        z = Trace(model.dtype)
        a = z.input("a", model(X).shape)
        targets = z.input("t", t.shape, "int64" if kind == "indices" else "float64")
        mean = mean_loss(smoothed, a, targets, None)
        program = z.program({"loss": mean, "slope": gradients(mean, [a])[0]})
        instance = fastnn.engines.choose("cpu")[0].instantiate(fuse(program) if fused else program, N, 1)
        instance.bind(a=model(X), t=np.asarray(t, "int64" if kind == "indices" else "float64"))
        instance.play()
        return b"".join(np.asarray(instance.output(name)).tobytes() for name in ("loss", "slope"))

    assert gradient(True) == gradient(False)


def test_without_it_nothing_changes() -> None:
    X, y = blobs(N)
    plain, zero, smoothed = classifier(), classifier(), classifier()
    plain.fit(X, y, **OPTIONS)
    zero.fit(X, y, label_smoothing=0, **OPTIONS)
    smoothed.fit(X, y, label_smoothing=0.1, **OPTIONS)
    assert digest(plain) == digest(zero) != digest(smoothed)
    assert str(plain.program(32)) == str(zero.program(32)) != str(smoothed.program(32))


@pytest.mark.parametrize("saved", [False, True])
def test_it_belongs_to_the_loss_after_the_training(saved: bool, tmp_path: Path) -> None:
    """Validation, `evaluate` and `partial_fit` have it; a loss that is named has not."""
    X, y = blobs(N)
    model = classifier()
    history = model.fit(X, y, label_smoothing=0.2, validation_data=(X, y), metrics=["log_loss"], **OPTIONS)
    if saved:
        model.save(tmp_path / "m.safetensors")
        model = fastnn.load(tmp_path / "m.safetensors")
    z = model(X)
    smooth, plain = (of_torch(z, y, "softmax_cross_entropy", s).mean().item() for s in (0.2, 0.0))
    assert smooth > plain
    assert history["val_loss"][-1] == pytest.approx(smooth, rel=1e-5)
    assert history["val_log_loss"][-1] == pytest.approx(plain, rel=1e-5)
    assert model.evaluate(X, y)["loss"] == pytest.approx(smooth, rel=1e-5)
    assert model.evaluate(X, y, loss="softmax_cross_entropy")["loss"] == pytest.approx(plain, rel=1e-5)
    assert model.partial_fit(X, y)["loss"] == pytest.approx(smooth, rel=1e-5)
    assert model.partial_fit(X, y, loss="softmax_cross_entropy")["loss"] < smooth
    model.fit(X, y, **OPTIONS)
    assert model.evaluate(X, y)["loss"] == model.evaluate(X, y, loss="softmax_cross_entropy")["loss"]


def test_metrics_of_outputs_see_the_targets_as_they_are() -> None:
    X, y = blobs(N)

    def error(outputs: Any, targets: Any) -> Any:
        return ops.softmax_cross_entropy(outputs, targets)

    model = classifier()
    metric = fastnn.metrics.Metric("error", error, takes="outputs")
    history = model.fit(X, y, label_smoothing=0.2, validation_data=(X, y), metrics=[metric], **OPTIONS)
    expected = model.evaluate(X, y, loss="softmax_cross_entropy")["loss"]
    assert history["val_error"][-1] == pytest.approx(expected, rel=1e-5)


def test_models_trained_together_have_the_bits_of_one() -> None:
    X, y = blobs(N)
    smoothed = as_loss("softmax_cross_entropy:label_smoothing=0.1")
    alone = [fastnn.Sequential([fastnn.Dense(3)], seed=seed) for seed in range(4)]
    for method in ("vectorized", "threads"):
        models = [fastnn.Sequential([fastnn.Dense(3)], seed=seed) for seed in range(4)]
        _, histories = train_together(
            models, X, y, loss=smoothed, batch_size=30, epochs=2, order=lambda epoch: range(N), device="cpu", method=method
        )
        for model, single, history in zip(models, alone, histories, strict=True):
            clone = single.clone()
            expected = clone.fit(X, y, label_smoothing=0.1, batch_size=30, epochs=2, shuffle=False, device="cpu", verbose=0)
            assert digest(model) == digest(clone)
            assert history["loss"] == expected["loss"]


def test_another_smoothing_is_refused_on_resume(tmp_path: Path) -> None:
    X, y = blobs(N)
    whole, first, second = classifier(), classifier(), classifier()
    whole.fit(X, y, label_smoothing=0.1, **OPTIONS)
    first.fit(X, y, label_smoothing=0.1, callbacks=[Checkpoint(tmp_path)], **{**OPTIONS, "epochs": 1})
    with pytest.raises(InputError, match=r"other loss: it has .*:label_smoothing=0\.1.*, this call 'softmax_cross_entropy'"):
        second.fit(X, y, resume=tmp_path, **OPTIONS)
    second.fit(X, y, label_smoothing=0.1, resume=tmp_path, **OPTIONS)
    assert digest(second) == digest(whole)


def cross_entropy(outputs: Any, targets: Any) -> Any:
    return ops.softmax_cross_entropy(outputs, targets)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        *(({"label_smoothing": s}, f"label_smoothing: expected a number, 0 <= s < 1, such as 0.1, got {s!r}")
          for s in (1, 1.0, -0.1, 2, float("nan"), True, "0.1", None)),
        *(({"label_smoothing": 0.1, "loss": loss}, f"not for {name}; leave it out") for name, loss in
          {"mean_squared_error": "mean_squared_error", "quadratic": "quadratic", "cross_entropy": cross_entropy,
           "own": Loss("own", cross_entropy, "softmax", "both")}.items()),
    ],
)  # fmt: skip
def test_what_cannot_be_smoothed_is_refused(options: dict[str, Any], says: str) -> None:
    X, y = blobs(N)
    model = classifier()
    with pytest.raises(InputError, match=re.escape(says)):
        model.fit(X, np.eye(3)[y], **OPTIONS, **options)
    assert not model.built


def test_tasks_of_files_are_checked() -> None:
    config = {"loss": "softmax_cross_entropy", "kind": "classes", "classes": [0, 1], "link": "softmax", "flat": False}
    smoothed = {**config, "loss": "softmax_cross_entropy:label_smoothing=0.25"}
    assert fastnn.data.targets.Task.from_config(smoothed).to_config() == smoothed
    for wrong in ("1.0", "-1", "a", "none"):
        with pytest.raises(InputError, match="label_smoothing: expected a finite number >= 0 and < 1"):
            fastnn.data.targets.Task.from_config({**config, "loss": f"softmax_cross_entropy:label_smoothing={wrong}"})
    with pytest.raises(InputError, match="quadratic has no parameters"):
        fastnn.data.targets.Task.from_config({**config, "loss": "quadratic:label_smoothing=0.1", "link": None})
